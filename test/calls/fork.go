//go:build linux

package calls

import (
	"fmt"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Children that are forked and never execute a program. Such a copy of a Go
// process has one thread, so nothing of the runtime works in it: the functions
// that run there must not grow the stack, allocate, or store pointers, and call
// only bare system calls. They are marked nosplit for that, and signals are held
// back, whose handlers are the runtime's.

// WithoutSignals calls fn on a thread that takes no signals.
func WithoutSignals(fn func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all, before unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &all, &before); err != nil {
		return err
	}
	err := fn()
	if unmaskErr := unix.PthreadSigmask(unix.SIG_SETMASK, &before, nil); err == nil {
		err = unmaskErr
	}
	return err
}

// Reap waits for the child pid, -1 for any, which must end without an error.
func Reap(pid int) error {
	var status unix.WaitStatus
	pid, err := unix.Wait4(pid, &status, 0, nil)
	if err == nil && status != 0 {
		err = fmt.Errorf("child %d ended with status %#x", pid, uint32(status))
	}
	return err
}

// Fork returns 0 to the child.
//
//go:nosplit
func Fork() (pid int, errno syscall.Errno) {
	r, _, errno := syscall.RawSyscall6(syscall.SYS_CLONE, uintptr(syscall.SIGCHLD), 0, 0, 0, 0, 0)
	return int(r), errno
}

// BecomeNamed gives the child a name of its own.
//
//go:nosplit
func BecomeNamed(name *byte) {
	syscall.RawSyscall6(syscall.SYS_PRCTL, syscall.PR_SET_NAME, uintptr(unsafe.Pointer(name)), 0, 0, 0, 0)
}

// ExitNow ends the child.
//
//go:nosplit
func ExitNow(code uintptr) {
	for {
		syscall.RawSyscall6(syscall.SYS_EXIT_GROUP, code, 0, 0, 0, 0, 0)
	}
}
