//go:build linux

package main

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/test/workload/proto"
)

// Asynchronous writes, by the bare system calls: no C library, so that the
// program stays static.

// pages allocates page-aligned memory that the Go runtime never moves or frees.
func pages(size int64) ([]byte, error) {
	mem, err := unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("allocating %d bytes: %w", size, err)
	}
	copy(mem, pattern(size))
	return mem, nil
}

// openAsync opens path= for writing, with direct=1 past the page cache.
func openAsync(a *opArgs) (*os.File, error) {
	flags := unix.O_WRONLY | unix.O_CREAT
	if a.given("direct") {
		flags |= unix.O_DIRECT
	}
	return open(a.path("path"), flags, 0o644)
}

// struct iocb of linux/aio_abi.h, little endian, with what is used of it.
type iocb struct {
	_      [2]uint64 // data, key, flags of this write
	opcode uint16
	_      int16 // priority
	fd     uint32
	buf    uint64
	bytes  uint64
	offset int64
	_      [2]uint64 // reserved, flags, eventfd
}

type ioEvent struct {
	data, obj uint64
	res, res2 int64
}

const iocbCmdPwrite = 1

// aioOp writes size= bytes in pieces of chunk= by io_submit.
func aioOp(a *opArgs, res *proto.Result) error {
	size, chunk := a.number("size", 0), a.number("chunk", 64<<10)
	f, err := openAsync(a)
	if err != nil {
		return err
	}
	defer f.Close()
	mem, err := pages(chunk)
	if err != nil {
		return err
	}
	var ctx uint64
	if _, _, errno := unix.Syscall(unix.SYS_IO_SETUP, 8, uintptr(unsafe.Pointer(&ctx)), 0); errno != 0 {
		return fmt.Errorf("io_setup: %w", errno)
	}
	defer func() { _, _, _ = unix.Syscall(unix.SYS_IO_DESTROY, uintptr(ctx), 0, 0) }()
	for done := int64(0); done < size; {
		cb := &iocb{opcode: iocbCmdPwrite, fd: uint32(f.Fd()), buf: uint64(uintptr(unsafe.Pointer(&mem[0]))), bytes: uint64(min(chunk, size-done)), offset: done}
		if n, _, errno := unix.Syscall(unix.SYS_IO_SUBMIT, uintptr(ctx), 1, uintptr(unsafe.Pointer(&cb))); errno != 0 || n != 1 {
			return fmt.Errorf("io_submit returned %d: %w", n, errno)
		}
		var ev ioEvent
		for {
			n, _, errno := unix.Syscall6(unix.SYS_IO_GETEVENTS, uintptr(ctx), 1, 1, uintptr(unsafe.Pointer(&ev)), 0, 0)
			if errno == unix.EINTR {
				continue
			}
			if errno != 0 || n != 1 {
				return fmt.Errorf("io_getevents returned %d: %w", n, errno)
			}
			break
		}
		if ev.res <= 0 {
			return fmt.Errorf("asynchronous write: %w", unix.Errno(-ev.res))
		}
		done += ev.res
		res.Written += ev.res
		res.Writes++
	}
	return nil
}
