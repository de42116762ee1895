//go:build linux

package calls

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

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

// AIO is a context of asynchronous I/O.
type AIO struct{ ctx uint64 }

// NewAIO makes a context, for one write at a time.
func NewAIO() (*AIO, error) {
	a := &AIO{}
	if _, _, errno := unix.Syscall(unix.SYS_IO_SETUP, 1, uintptr(unsafe.Pointer(&a.ctx)), 0); errno != 0 {
		return nil, fmt.Errorf("io_setup: %w", errno)
	}
	return a, nil
}

// Close gives the context up.
func (a *AIO) Close() { _, _, _ = unix.Syscall(unix.SYS_IO_DESTROY, uintptr(a.ctx), 0, 0) }

// Write submits a write from memory that Go does not move, such as a mapping, waits
// until it is complete and returns what it wrote.
func (a *AIO) Write(fd int, mem []byte, offset int64) (int, error) {
	cb := &iocb{opcode: iocbCmdPwrite, fd: uint32(fd), buf: uint64(uintptr(unsafe.Pointer(unsafe.SliceData(mem)))), bytes: uint64(len(mem)), offset: offset}
	if n, _, errno := unix.Syscall(unix.SYS_IO_SUBMIT, uintptr(a.ctx), 1, uintptr(unsafe.Pointer(&cb))); errno != 0 || n != 1 {
		return 0, fmt.Errorf("io_submit returned %d: %w", n, errno)
	}
	var event ioEvent
	for {
		n, _, errno := unix.Syscall6(unix.SYS_IO_GETEVENTS, uintptr(a.ctx), 1, 1, uintptr(unsafe.Pointer(&event)), 0, 0)
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 || n != 1 {
			return 0, fmt.Errorf("io_getevents returned %d: %w", n, errno)
		}
		break
	}
	if event.res < 0 {
		return 0, fmt.Errorf("asynchronous write: %w", unix.Errno(-event.res))
	}
	return int(event.res), nil
}
