//go:build linux

package main

import (
	"fmt"
	"os"
	"sync/atomic"
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
	if a.text("direct", "") != "" {
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

// The structures of linux/io_uring.h.
type sqOffsets struct {
	head, tail, ringMask, ringEntries, flags, dropped, array, _ uint32
	_                                                           uint64
}

type cqOffsets struct {
	head, tail, ringMask, ringEntries, overflow, cqes, flags, _ uint32
	_                                                           uint64
}

type uringParams struct {
	sqEntries, cqEntries, flags, sqThreadCPU, sqThreadIdle, features, wqFD uint32
	_                                                                      [3]uint32
	sq                                                                     sqOffsets
	cq                                                                     cqOffsets
}

type uringSQE struct {
	opcode, flags uint8
	ioprio        uint16
	fd            int32
	off, addr     uint64
	length        uint32
	opFlags       uint32
	userData      uint64
	_             [3]uint64
}

type uringCQE struct {
	userData uint64
	res      int32
	flags    uint32
}

const (
	uringOffSQ, uringOffCQ, uringOffSQEs = 0, 0x8000000, 0x10000000
	uringSetupSQPoll                     = 1 << 1
	uringEnterGetEvents                  = 1 << 0
	uringEnterSQWakeup                   = 1 << 1
	uringSQNeedWakeup                    = 1 << 0
	uringOpFallocate                     = 17
	uringOpWrite                         = 23
)

// ring is one io_uring with one entry in flight.
type ring struct {
	fd       int
	p        uringParams
	sqMem    []byte
	cqMem    []byte
	sqes     []byte
	sqTail   *uint32
	sqFlags  *uint32
	cqHead   *uint32
	cqTail   *uint32
	sqArray0 *uint32
}

func newRing(sqpoll bool) (*ring, error) {
	r := &ring{}
	if sqpoll {
		r.p.flags, r.p.sqThreadIdle = uringSetupSQPoll, 50
	}
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&r.p)), 0)
	if errno != 0 {
		return nil, fmt.Errorf("io_uring_setup: %w", errno)
	}
	r.fd = int(fd)
	var err error
	if r.sqMem, err = unix.Mmap(r.fd, uringOffSQ, int(r.p.sq.array+4*r.p.sqEntries), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE); err != nil {
		return nil, fmt.Errorf("mapping the submission ring: %w", err)
	}
	if r.cqMem, err = unix.Mmap(r.fd, uringOffCQ, int(r.p.cq.cqes+r.p.cqEntries*uint32(unsafe.Sizeof(uringCQE{}))), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE); err != nil {
		return nil, fmt.Errorf("mapping the completion ring: %w", err)
	}
	if r.sqes, err = unix.Mmap(r.fd, uringOffSQEs, int(r.p.sqEntries*uint32(unsafe.Sizeof(uringSQE{}))), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE); err != nil {
		return nil, fmt.Errorf("mapping the submission entries: %w", err)
	}
	word := func(mem []byte, off uint32) *uint32 { return (*uint32)(unsafe.Pointer(&mem[off])) }
	r.sqTail, r.sqFlags, r.sqArray0 = word(r.sqMem, r.p.sq.tail), word(r.sqMem, r.p.sq.flags), word(r.sqMem, r.p.sq.array)
	r.cqHead, r.cqTail = word(r.cqMem, r.p.cq.head), word(r.cqMem, r.p.cq.tail)
	return r, nil
}

// do submits one entry and waits until it is complete.
func (r *ring) do(sqe uringSQE) (int32, error) {
	// One entry: slot 0 is the only one.
	*(*uringSQE)(unsafe.Pointer(&r.sqes[0])) = sqe
	*r.sqArray0 = 0
	atomic.AddUint32(r.sqTail, 1)
	flags := uintptr(uringEnterGetEvents)
	submit := uintptr(1)
	if r.p.flags&uringSetupSQPoll != 0 {
		submit = 0
		if atomic.LoadUint32(r.sqFlags)&uringSQNeedWakeup != 0 {
			flags |= uringEnterSQWakeup
		}
	}
	for atomic.LoadUint32(r.cqTail) == atomic.LoadUint32(r.cqHead) {
		_, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(r.fd), submit, 1, flags, 0, 0)
		if errno != 0 && errno != unix.EINTR {
			return 0, fmt.Errorf("io_uring_enter: %w", errno)
		}
		if errno == 0 {
			submit = 0
		}
	}
	head := *r.cqHead
	mask := *(*uint32)(unsafe.Pointer(&r.cqMem[r.p.cq.ringMask]))
	cqe := *(*uringCQE)(unsafe.Pointer(&r.cqMem[r.p.cq.cqes+(head&mask)*uint32(unsafe.Sizeof(uringCQE{}))]))
	atomic.AddUint32(r.cqHead, 1)
	if cqe.res < 0 {
		return 0, fmt.Errorf("io_uring request %d: %w", sqe.opcode, unix.Errno(-cqe.res))
	}
	return cqe.res, nil
}

// uringOp writes size= bytes in pieces of chunk= through io_uring; with
// sqpoll=1 a kernel thread submits them, with kind=fallocate nothing is written.
func uringOp(a *opArgs, res *proto.Result) error {
	size, chunk, kind := a.number("size", 0), a.number("chunk", 64<<10), a.text("kind", "write")
	r, err := newRing(a.text("sqpoll", "") != "")
	if err != nil {
		return err
	}
	defer unix.Close(r.fd)
	f, err := openAsync(a)
	if err != nil {
		return err
	}
	defer f.Close()
	if kind == "fallocate" {
		// The length of a fallocate request goes where a write has its buffer.
		_, err := r.do(uringSQE{opcode: uringOpFallocate, fd: int32(f.Fd()), addr: uint64(size)})
		return err
	}
	mem, err := pages(chunk)
	if err != nil {
		return err
	}
	for done := int64(0); done < size; {
		n, err := r.do(uringSQE{opcode: uringOpWrite, fd: int32(f.Fd()), off: uint64(done), addr: uint64(uintptr(unsafe.Pointer(&mem[0]))), length: uint32(min(chunk, size-done))})
		if err != nil {
			return err
		}
		if n == 0 {
			return fmt.Errorf("io_uring wrote nothing at %d", done)
		}
		done += int64(n)
		res.Written += int64(n)
		res.Writes++
	}
	return nil
}
