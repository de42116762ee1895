// Package e2e holds the end-to-end tests: a real kernel, a real Docker daemon, a
// real container that does known things, and the layertrace binary beside it.
//
// They run as root inside the virtual machine of test/vm, or on any machine that
// may lose its containers named e2e-*, on which Docker's disk may be full and the
// caches empty for a moment, with LAYERTRACE_VM=1 in the environment.
// Without it the package runs no test and succeeds.
//
// In the environment:
//
//	LAYERTRACE_VM=1            run the tests
//	LAYERTRACE_BIN             layertrace; default bin/layertrace of the repository
//	LAYERTRACE_WORKLOAD        test/workload, built without cgo; default bin/workload
//	LAYERTRACE_SOAK=10m        how long TestSoak runs; default 3s
//	LAYERTRACE_CONTAINERS=200  how many containers TestShortContainers runs; default 6. From
//	                           100 on the tests of daemons take longer, too
package e2e
