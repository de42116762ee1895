package main

import (
	"runtime/debug"

	"golang.org/x/sys/unix"
)

// heapGrowth is by how many percent the heap may grow before the collector runs.
// What is known of a layer's files is most of it and stays: with Go's 100 percent
// as much again would be held for nothing.
const heapGrowth = 25

// spareMemory is for commands that run for long. A heap of so few megabytes gains
// nothing by huge pages, and the kernel, which makes them in the background, fills in
// what the collector had given back: 15 MiB within minutes.
func spareMemory() {
	debug.SetGCPercent(heapGrowth)
	_ = unix.Prctl(unix.PR_SET_THP_DISABLE, 1, 0, 0, 0) // without it, it is just larger
}

// returnMemory gives back what loading the programs took: the kernel's types are
// some ten MiB that are not needed again.
func returnMemory() { debug.FreeOSMemory() }
