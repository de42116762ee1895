//go:build linux

package main

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/test/calls"
	"github.com/layertrace/layertrace/test/workload/proto"
)

// See package calls for what may be done in a child that is forked.

// forkStore forks a child that stores one byte into each step of the memory.
//
//go:nosplit
func forkStore(name *byte, mem unsafe.Pointer, size, step uintptr) (pid int, errno syscall.Errno) {
	pid, errno = calls.Fork()
	if pid != 0 || errno != 0 {
		return pid, errno
	}
	calls.BecomeNamed(name)
	for i := uintptr(0); i < size; i += step {
		*(*byte)(unsafe.Add(mem, i)) = 'm'
	}
	calls.ExitNow(0)
	return 0, 0
}

// brief is what a child of stormOp does.
type brief struct {
	name     *byte
	shared   *byte // a path
	own      *byte // another
	text     *byte
	appended uintptr // so many bytes of text go to shared
	created  uintptr // and so many into own, which is new
}

//go:nosplit
func (b *brief) writeTo(path *byte, flags int, size uintptr) {
	cwd := unix.AT_FDCWD
	fd, _, errno := syscall.RawSyscall6(syscall.SYS_OPENAT, uintptr(cwd), uintptr(unsafe.Pointer(path)), uintptr(flags), 0o644, 0, 0)
	if errno != 0 {
		calls.ExitNow(1)
	}
	n, _, _ := syscall.RawSyscall6(syscall.SYS_WRITE, fd, uintptr(unsafe.Pointer(b.text)), size, 0, 0, 0)
	if n != size {
		calls.ExitNow(2)
	}
	syscall.RawSyscall6(syscall.SYS_CLOSE, fd, 0, 0, 0, 0, 0)
}

//go:nosplit
func (b *brief) fork() (pid int, errno syscall.Errno) { return b.work(calls.Fork()) }

//go:nosplit
func (b *brief) work(pid int, errno syscall.Errno) (int, syscall.Errno) {
	if pid != 0 || errno != 0 {
		return pid, errno
	}
	calls.BecomeNamed(b.name)
	b.writeTo(b.shared, unix.O_WRONLY|unix.O_APPEND, b.appended)
	b.writeTo(b.own, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, b.created)
	calls.ExitNow(0)
	return 0, 0
}

// stormOp forks count= children, up to width= at a time. The i-th is called by the
// last component of path= followed by i, appends 1+i bytes to shared= and writes
// 2*(1+i) into a file of its own: path= followed by i.
func stormOp(a *opArgs, res *proto.Result) error {
	briefs, err := makeBriefs(a, res)
	if err != nil {
		return err
	}
	count, width := len(briefs), int(a.number("width", 1))
	return calls.WithoutSignals(func() error {
		for i := range briefs {
			if i >= width {
				if err := calls.Reap(-1); err != nil {
					return err
				}
			}
			if _, errno := briefs[i].fork(); errno != 0 {
				return os.NewSyscallError("clone", errno)
			}
		}
		for range min(width, count) {
			if err := calls.Reap(-1); err != nil {
				return err
			}
		}
		return nil
	})
}

// struct clone_args of linux/sched.h, with what is used of it.
type cloneArgs struct {
	_          [4]uint64 // flags, descriptor and places for pids
	exitSignal uint64
	_          [3]uint64 // stack and thread-local storage
	setTID     *int32
	setTIDSize uint64
	_          uint64 // cgroup
}

// forkAs is fork, with the pid that the child is to have.
//
//go:nosplit
func forkAs(args *cloneArgs) (pid int, errno syscall.Errno) {
	r, _, errno := syscall.RawSyscall6(unix.SYS_CLONE3, uintptr(unsafe.Pointer(args)), unsafe.Sizeof(*args), 0, 0, 0, 0)
	return int(r), errno
}

// reusePIDOp is stormOp with one child after the other, all of which have the same
// pid. It needs the right to choose pids.
func reusePIDOp(a *opArgs, res *proto.Result) error {
	briefs, err := makeBriefs(a, res)
	if err != nil {
		return err
	}
	return calls.WithoutSignals(func() error {
		first, errno := briefs[0].fork()
		if errno != 0 {
			return os.NewSyscallError("clone", errno)
		}
		if err := calls.Reap(first); err != nil {
			return err
		}
		res.Detail = fmt.Sprint(first)
		pid := int32(first)
		args := cloneArgs{exitSignal: uint64(syscall.SIGCHLD), setTID: &pid, setTIDSize: 1}
		for i := range briefs[1:] {
			if _, errno := briefs[i+1].work(forkAs(&args)); errno != 0 {
				return os.NewSyscallError("clone3", errno)
			}
			if err := calls.Reap(first); err != nil {
				return err
			}
		}
		return nil
	})
}

// makeBriefs makes the orders of count= children.
func makeBriefs(a *opArgs, res *proto.Result) ([]brief, error) {
	path, shared, count := a.path("path"), a.path("shared"), int(a.number("count", 1))
	text := pattern(int64(2 * (count + 1)))
	pointer := func(s string) *byte {
		p, err := unix.BytePtrFromString(s)
		if err != nil {
			a.fail("%q: %v", s, err)
		}
		return p
	}
	briefs := make([]brief, count)
	for i := range briefs {
		own := fmt.Sprintf("%s%d", path, i)
		briefs[i] = brief{
			name: pointer(own[strings.LastIndexByte(own, '/')+1:]), shared: pointer(shared), own: pointer(own),
			text: &text[0], appended: uintptr(1 + i), created: uintptr(2 * (1 + i)),
		}
		res.Written += int64(3 * (1 + i))
		res.Writes += 2
	}
	if a.err != nil {
		return nil, a.err
	}
	return briefs, nil
}
