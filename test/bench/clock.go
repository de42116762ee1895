//go:build linux

package main

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// counting tells that the clock counts instructions.
func counting() bool { return os.Getenv("LAYERTRACE_INSTRUCTIONS") != "" }

// unit is what the clock counts.
func unit() string {
	if counting() {
		return "instructions"
	}
	return "ns"
}

// whose time is meant.
type whose int

const (
	thread   whose = unix.RUSAGE_THREAD
	process  whose = unix.RUSAGE_SELF
	children whose = unix.RUSAGE_CHILDREN
)

// now reads the clock. One that counts instructions says nothing while the machine waits for its
// disk, so there it is what the processor did for us.
func now(w whose) (float64, error) {
	if !counting() {
		return float64(time.Since(began)), nil
	}
	if w == children {
		var used unix.Rusage
		err := unix.Getrusage(int(w), &used)
		return float64(used.Utime.Nano() + used.Stime.Nano()), err
	}
	id := int32(unix.CLOCK_THREAD_CPUTIME_ID)
	if w == process {
		id = unix.CLOCK_PROCESS_CPUTIME_ID
	}
	var used unix.Timespec
	err := unix.ClockGettime(id, &used)
	return float64(used.Nano()), err
}

var began = time.Now()

// timed returns how long something took.
func timed(w whose, do func() error) (took float64, err error) {
	from, err := now(w)
	if err != nil {
		return 0, err
	}
	if err := do(); err != nil {
		return 0, err
	}
	to, err := now(w)
	return to - from, err
}
