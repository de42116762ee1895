//go:build linux

// Package calls makes system calls that the Go runtime has no part in: io_uring,
// libaio's, children that are forked and execute nothing. The workload program and
// the workers of the model checker use it. It needs no C library, so that they stay
// static.
package calls
