//go:build linux

package main

import (
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/test/workload/proto"
)

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
	buffer        uint16 // the index of a registered one
	_             uint16
	spliceFrom    int32
	_             [2]uint64
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
	uringRegisterBuffers                 = 0
	uringLink                            = 1 << 2
	uringAsync                           = 1 << 4
	uringOpWriteFixed                    = 5
	uringOpFallocate                     = 17
	uringOpWrite                         = 23
	uringOpSplice                        = 30
	uringOpRename                        = 35
	uringOpUnlink                        = 36
)

// uringEntries is how many requests may be in flight at once.
const uringEntries = 4

// ring is an io_uring.
type ring struct {
	fd      int
	p       uringParams
	sqMem   []byte
	cqMem   []byte
	sqes    []byte
	sqTail  *uint32
	sqFlags *uint32
	cqHead  *uint32
	cqTail  *uint32
}

func word(mem []byte, off uint32) *uint32 { return (*uint32)(unsafe.Pointer(&mem[off])) }

func newRing(sqpoll bool) (*ring, error) {
	r := &ring{}
	if sqpoll {
		r.p.flags, r.p.sqThreadIdle = uringSetupSQPoll, 50
	}
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, uringEntries, uintptr(unsafe.Pointer(&r.p)), 0)
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
	r.sqTail, r.sqFlags = word(r.sqMem, r.p.sq.tail), word(r.sqMem, r.p.sq.flags)
	r.cqHead, r.cqTail = word(r.cqMem, r.p.cq.head), word(r.cqMem, r.p.cq.tail)
	return r, nil
}

// do submits the entries together, waits until all are complete and returns the
// sum of their results. A single one is submitted again if it was canceled, and so
// wrote nothing: 5.10 does that when another thread of the process ends (seen).
func (r *ring) do(sqes ...uringSQE) (int64, error) {
	for {
		n, err := r.once(sqes...)
		if len(sqes) > 1 || !errors.Is(err, unix.ECANCELED) {
			return n, err
		}
	}
}

func (r *ring) once(sqes ...uringSQE) (int64, error) {
	mask := *word(r.sqMem, r.p.sq.ringMask)
	for i, sqe := range sqes {
		slot := (*r.sqTail + uint32(i)) & mask
		*(*uringSQE)(unsafe.Pointer(&r.sqes[uintptr(slot)*unsafe.Sizeof(sqe)])) = sqe
		*word(r.sqMem, r.p.sq.array+4*slot) = slot
	}
	count := uint32(len(sqes))
	atomic.AddUint32(r.sqTail, count)
	submit := uintptr(count)
	for atomic.LoadUint32(r.cqTail)-*r.cqHead < count {
		flags := uintptr(uringEnterGetEvents)
		if r.p.flags&uringSetupSQPoll != 0 {
			submit = 0
			if atomic.LoadUint32(r.sqFlags)&uringSQNeedWakeup != 0 {
				flags |= uringEnterSQWakeup
			}
		}
		n, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(r.fd), submit, uintptr(count), flags, 0, 0)
		if errno != 0 && errno != unix.EINTR {
			return 0, fmt.Errorf("io_uring_enter: %w", errno)
		}
		if errno == 0 {
			submit -= min(n, submit)
		}
	}
	return r.reap(count)
}

// reap takes the results of count requests.
func (r *ring) reap(count uint32) (int64, error) {
	mask := *word(r.cqMem, r.p.cq.ringMask)
	sum, failed := int64(0), error(nil)
	for range count {
		slot := *r.cqHead & mask
		cqe := (*uringCQE)(unsafe.Pointer(&r.cqMem[r.p.cq.cqes+slot*uint32(unsafe.Sizeof(uringCQE{}))]))
		if cqe.res < 0 {
			failed = fmt.Errorf("io_uring request: %w", unix.Errno(-cqe.res))
		} else {
			sum += int64(cqe.res)
		}
		atomic.AddUint32(r.cqHead, 1)
	}
	return sum, failed
}

// uringOp does kind= through io_uring. With sqpoll=1 a kernel thread submits the
// requests, with async=1 a worker thread carries them out.
func uringOp(a *opArgs, res *proto.Result) error {
	r, err := newRing(a.given("sqpoll"))
	if err != nil {
		return err
	}
	defer unix.Close(r.fd)
	flags := uint8(0)
	if a.given("async") {
		flags = uringAsync
	}
	switch kind := a.text("kind", "write"); kind {
	case "rename", "unlink":
		return r.names(a, kind)
	case "splice":
		return r.splice(a, res)
	case "fallocate":
		f, err := openAsync(a)
		if err != nil {
			return err
		}
		defer f.Close()
		// The length of a fallocate request goes where a write has its buffer.
		_, err = r.do(uringSQE{opcode: uringOpFallocate, flags: flags, fd: int32(f.Fd()), addr: uint64(a.number("size", 0))})
		return err
	case "write":
		return r.write(a, res, uringSQE{opcode: uringOpWrite, flags: flags}, 1)
	case "linked":
		return r.write(a, res, uringSQE{opcode: uringOpWrite, flags: flags}, uringEntries)
	case "fixed":
		return r.write(a, res, uringSQE{opcode: uringOpWriteFixed, flags: flags}, 1)
	default:
		return fmt.Errorf("unknown kind %q", kind)
	}
}

// write writes size= bytes in pieces of chunk=, so many of them at a time, each
// after the one before it.
func (r *ring) write(a *opArgs, res *proto.Result, sqe uringSQE, linked int) error {
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
	if sqe.opcode == uringOpWriteFixed {
		iov := unix.Iovec{Base: &mem[0]}
		iov.SetLen(len(mem))
		if _, _, errno := unix.Syscall6(unix.SYS_IO_URING_REGISTER, uintptr(r.fd), uringRegisterBuffers, uintptr(unsafe.Pointer(&iov)), 1, 0, 0); errno != 0 {
			return fmt.Errorf("registering a buffer: %w", errno)
		}
	}
	sqe.fd, sqe.addr = int32(f.Fd()), uint64(uintptr(unsafe.Pointer(&mem[0])))
	for done := int64(0); done < size; {
		var batch []uringSQE
		for off := done; off < size && len(batch) < linked; off += chunk {
			sqe.off, sqe.length = uint64(off), uint32(min(chunk, size-off))
			batch = append(batch, sqe)
		}
		for i := range batch[:len(batch)-1] {
			batch[i].flags |= uringLink
		}
		n, err := r.do(batch...)
		if err != nil {
			return err
		}
		if n == 0 {
			return fmt.Errorf("io_uring wrote nothing at %d", done)
		}
		done += n
		res.Written += n
		res.Writes += int64(len(batch))
	}
	return nil
}

// splice moves from= through a pipe to path=; the half out of the pipe is
// io_uring's.
func (r *ring) splice(a *opArgs, res *proto.Result) error {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return err
	}
	defer unix.Close(pipe[0])
	defer unix.Close(pipe[1])
	return moveAll(a, res, func(from, to, left int) (int, error) {
		in, err := unix.Splice(from, nil, pipe[1], nil, min(left, 64<<10), 0)
		if err != nil {
			return 0, err
		}
		for done := int64(0); done < in; {
			// A pipe has no offset, and the file's own is to be used.
			n, err := r.do(uringSQE{opcode: uringOpSplice, fd: int32(to), spliceFrom: int32(pipe[0]), off: ^uint64(0), addr: ^uint64(0), length: uint32(in - done)})
			if err != nil {
				return 0, err
			}
			done += n
		}
		return int(in), nil
	})
}

// names renames from= to path=, or unlinks path=.
func (r *ring) names(a *opArgs, kind string) error {
	path, err := unix.BytePtrFromString(a.path("path"))
	if err != nil {
		return err
	}
	here := int32(unix.AT_FDCWD)
	if kind == "unlink" {
		_, err = r.do(uringSQE{opcode: uringOpUnlink, fd: here, addr: uint64(uintptr(unsafe.Pointer(path)))})
		runtime.KeepAlive(path)
		return err
	}
	from, err := unix.BytePtrFromString(a.path("from"))
	if err != nil {
		return err
	}
	_, err = r.do(uringSQE{opcode: uringOpRename, fd: here, length: uint32(here), addr: uint64(uintptr(unsafe.Pointer(from))), off: uint64(uintptr(unsafe.Pointer(path)))})
	runtime.KeepAlive(path)
	runtime.KeepAlive(from)
	return err
}
