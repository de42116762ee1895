// Package model checks the tracer's books against the disk with random
// histories: a few processes change a real overlay in every way there is, one at
// a time or all at once, and what each of them is charged with must be what the
// upper directory says: for each in size if they went one at a time, and on the disk
// if what each had left in memory was written back before the next one, else in the
// sum. A history that fails is made as short as possible.
//
// It runs as root inside the virtual machine of test/vm, with LAYERTRACE_VM=1 in
// the environment and a file system of its own at /scratch. Without the variable
// the package runs no test and succeeds.
//
// In the environment:
//
//	LAYERTRACE_VM=1            run the tests
//	LAYERTRACE_MODEL_SEED=N    the histories of seed N; default: others each time
//	LAYERTRACE_MODEL_TIME=10m  go on for so long; default: a fixed number of histories
//
// rapid's flags hold as well: -rapid.checks is how many histories are run for
// the first way to mount, a share of it for the others; -rapid.steps is how many
// operations a history has on average, -rapid.shrinktime how long a failing one is
// shortened.
package model
