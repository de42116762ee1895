package model

import (
	"errors"
	"os"
	"runtime"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/test/calls"
)

// limitOp does something while no file may grow beyond a limit, which is halfway.
func limitOp(w *worker, o *op) error {
	if o.Choice == "open" {
		// The file that it copies up may be larger.
		return limited(o.Offset+o.Size/2, func() error {
			return w.opened(o.Path, writeOnly, func(int) error { return nil })
		})
	}
	flags := writeOnly
	if o.Choice == "append" {
		flags |= unix.O_APPEND
	}
	return w.opened(o.Path, flags, func(fd int) error {
		return limited(o.Offset+o.Size/2, func() error {
			switch o.Choice {
			case "write":
				return w.wrote(unix.Pwrite(fd, w.data[:o.Size], o.Offset))
			case "append":
				return w.wrote(unix.Write(fd, w.data[:o.Size]))
			case "truncate":
				return unix.Ftruncate(fd, o.Offset+o.Size)
			}
			return unix.Fallocate(fd, 0, o.Offset, o.Size)
		})
	})
}

// limited calls fn while no file of this process may grow beyond a limit.
func limited(size int64, fn func() error) error {
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &before); err != nil {
		return err
	}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: uint64(size), Max: before.Max}); err != nil {
		return err
	}
	defer func() { _ = unix.Setrlimit(unix.RLIMIT_FSIZE, &before) }()
	return fn()
}

// child is what a forked child does; see package calls for what may be done in one.
type child struct {
	path  *byte // of a file that it opens
	flags uintptr
	fd    uintptr // of one that it inherits, if there is no path
	data  *byte
	size  uintptr  // of what it writes
	at    *byte    // where it stores instead
	said  *epitaph // is shared with the worker
}

// epitaph is what a child says about itself.
type epitaph struct {
	written int64
	errno   uint64
	stat    unix.Stat_t // of what it opened
}

// errChild is a child that did not end by itself.
var errChild = errors.New("the child ended with an error")

// fork starts the child.
//
//go:nosplit
func (c *child) fork() (pid int, errno syscall.Errno) {
	pid, errno = calls.Fork()
	if pid != 0 || errno != 0 {
		return pid, errno
	}
	if c.at != nil {
		for i := uintptr(0); i < c.size; i += page {
			*(*byte)(unsafe.Add(unsafe.Pointer(c.at), i)) = 'm'
		}
		calls.ExitNow(0)
	}
	fd := c.fd
	if c.path != nil {
		here := unix.AT_FDCWD
		fd, _, errno = syscall.RawSyscall6(syscall.SYS_OPENAT, uintptr(here), uintptr(unsafe.Pointer(c.path)), c.flags, 0o644, 0, 0)
		if errno == 0 {
			_, _, errno = syscall.RawSyscall6(syscall.SYS_FSTAT, fd, uintptr(unsafe.Pointer(&c.said.stat)), 0, 0, 0, 0)
		}
		if errno == 0 && c.said.stat.Mode&unix.S_IFMT != unix.S_IFREG {
			errno = syscall.EINVAL // as openRegular
		}
	} else {
		_, _, errno = syscall.RawSyscall6(syscall.SYS_LSEEK, fd, 0, unix.SEEK_END, 0, 0, 0)
	}
	if errno == 0 {
		var n uintptr
		n, _, errno = syscall.RawSyscall6(syscall.SYS_WRITE, fd, uintptr(unsafe.Pointer(c.data)), c.size, 0, 0, 0)
		if errno == 0 {
			c.said.written = int64(n)
		}
	}
	c.said.errno = uint64(errno)
	calls.ExitNow(0)
	return 0, 0
}

// bear has a child do something and waits for its end.
func (w *worker) bear(c *child) error {
	c.said = (*epitaph)(unsafe.Pointer(&w.shared[0]))
	*c.said = epitaph{}
	var status unix.WaitStatus
	err := calls.WithoutSignals(func() error {
		pid, errno := c.fork()
		if errno != 0 {
			return errno
		}
		w.by, w.parent = uint32(pid), w.by
		for {
			if _, err := unix.Wait4(pid, &status, 0, nil); !errors.Is(err, unix.EINTR) {
				return err
			}
		}
	})
	runtime.KeepAlive(c)
	switch {
	case err != nil:
		return err
	case status.Signaled() && status.Signal() == unix.SIGBUS:
		return errFault
	case status != 0:
		return errChild
	}
	errno := unix.Errno(c.said.errno)
	if errno != 0 {
		return errno
	}
	return w.wrote(int(c.said.written), nil)
}

// forkOp has a child open a file and write to it.
func forkOp(w *worker, o *op) error {
	path, err := unix.BytePtrFromString(w.path(o.Path))
	if err != nil {
		return err
	}
	flags := map[string]int{"append": unix.O_APPEND, "trunc": unix.O_TRUNC}[o.Choice]
	c := &child{path: path, flags: uintptr(writeOnly | unix.O_NONBLOCK | flags), data: &w.data[0], size: uintptr(o.Size)}
	return w.bear(c)
}

// heldForkOp has a child write to what is held, or store to its mapping.
func heldForkOp(w *worker, o *op) error {
	s, err := w.held(o)
	if err != nil {
		return err
	}
	memory := s.memory
	if memory == nil {
		if o.Choice == "append" {
			return w.bear(&child{fd: uintptr(s.fd), data: &w.data[0], size: uintptr(o.Size)})
		}
		if memory, err = unix.Mmap(s.fd, o.Offset&^(page-1), int(o.Size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
			return err
		}
		defer func() { _ = unix.Munmap(memory) }()
	}
	return w.bear(&child{at: &memory[0], size: uintptr(len(memory))})
}

// killPieces is how many times over a worker writes that is killed meanwhile.
const killPieces = 8

// killOp has the worker killed while it opens a file, which may copy it up, or writes to
// it. Nobody hears what became of that.
func killOp(w *worker, o *op) error {
	kill := func() { _ = unix.Kill(os.Getpid(), unix.SIGKILL) }
	if o.Choice == "opening" {
		go kill()
	}
	pieces := make([][]byte, killPieces)
	for i := range pieces {
		pieces[i] = w.data[:o.Size]
	}
	_ = w.opened(o.Path, writeOnly, func(fd int) error {
		if o.Choice == "writing" {
			go kill()
		}
		_, err := unix.Writev(fd, pieces)
		return err
	})
	go kill() // if it could not be opened
	for {
		time.Sleep(time.Hour)
	}
}
