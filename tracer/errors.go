package tracer

import "errors"

// Errors that New's error may match with errors.Is.
var (
	// ErrNoBTF: the kernel describes no types of its own (CONFIG_DEBUG_INFO_BTF).
	ErrNoBTF = errors.New("the kernel has no BTF")
	// ErrNotPermitted: the kernel refused, for want of CAP_BPF, CAP_PERFMON and
	// CAP_SYS_ADMIN or by policy (lockdown, a seccomp filter).
	ErrNotPermitted = errors.New("the kernel does not permit it")
	// ErrNoOverlay: the overlay module is not loaded.
	ErrNoOverlay = errors.New("the overlay module is not loaded")
	// ErrUnsupported: the kernel lacks a function that exact counting needs.
	ErrUnsupported = errors.New("the kernel does not support it")
	// ErrTableFull: the ledger has no room for a further file.
	ErrTableFull = errors.New("the table of files is full")
)
