//go:build linux

package calls

import (
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
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

// SQE is a request.
type SQE struct {
	Opcode, Flags uint8
	_             uint16 // priority
	FD            int32
	Offset        uint64
	Address       uint64
	Length        uint32
	_             uint32 // flags of the operation
	_             uint64 // user data
	_             uint16 // the index of a registered buffer: the first one
	_             uint16
	SpliceFrom    int32
	_             [2]uint64
}

type cqe struct {
	_   uint64 // user data
	res int32
	_   uint32 // flags
}

const (
	offSQ, offCQ, offSQEs = 0, 0x8000000, 0x10000000
	setupSQPoll           = 1 << 1
	enterGetEvents        = 1 << 0
	enterSQWakeup         = 1 << 1
	sqNeedWakeup          = 1 << 0
	registerBuffers       = 0
)

// Of requests.
const (
	SQELink  = 1 << 2
	SQEAsync = 1 << 4

	OpWriteFixed = 5
	OpFallocate  = 17
	OpWrite      = 23
	OpSplice     = 30
	opRename     = 35
	opUnlink     = 36
)

// RingEntries is how many requests may be in flight at once.
const RingEntries = 4

// Ring is an io_uring.
type Ring struct {
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

// NewRing makes a ring, whose requests a kernel thread submits if sqpoll.
func NewRing(sqpoll bool) (*Ring, error) {
	r := &Ring{}
	if sqpoll {
		r.p.flags, r.p.sqThreadIdle = setupSQPoll, 50
	}
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, RingEntries, uintptr(unsafe.Pointer(&r.p)), 0)
	if errno != 0 {
		return nil, fmt.Errorf("io_uring_setup: %w", errno)
	}
	r.fd = int(fd)
	if err := r.mapAll(); err != nil {
		r.Close()
		return nil, err
	}
	r.sqTail, r.sqFlags = word(r.sqMem, r.p.sq.tail), word(r.sqMem, r.p.sq.flags)
	r.cqHead, r.cqTail = word(r.cqMem, r.p.cq.head), word(r.cqMem, r.p.cq.tail)
	return r, nil
}

func (r *Ring) mapAll() (err error) {
	const protection, flags = unix.PROT_READ | unix.PROT_WRITE, unix.MAP_SHARED | unix.MAP_POPULATE
	if r.sqMem, err = unix.Mmap(r.fd, offSQ, int(r.p.sq.array+4*r.p.sqEntries), protection, flags); err != nil {
		return fmt.Errorf("mapping the submission ring: %w", err)
	}
	if r.cqMem, err = unix.Mmap(r.fd, offCQ, int(r.p.cq.cqes+r.p.cqEntries*uint32(unsafe.Sizeof(cqe{}))), protection, flags); err != nil {
		return fmt.Errorf("mapping the completion ring: %w", err)
	}
	if r.sqes, err = unix.Mmap(r.fd, offSQEs, int(r.p.sqEntries*uint32(unsafe.Sizeof(SQE{}))), protection, flags); err != nil {
		return fmt.Errorf("mapping the submission entries: %w", err)
	}
	return nil
}

// Close gives the ring up. The kernel takes it apart a little later.
func (r *Ring) Close() {
	for _, mem := range [][]byte{r.sqMem, r.cqMem, r.sqes} {
		if mem != nil {
			_ = unix.Munmap(mem)
		}
	}
	unix.Close(r.fd)
}

// Register registers a buffer for OpWriteFixed.
func (r *Ring) Register(mem []byte) error {
	iov := unix.Iovec{Base: &mem[0]}
	iov.SetLen(len(mem))
	if _, _, errno := unix.Syscall6(unix.SYS_IO_URING_REGISTER, uintptr(r.fd), registerBuffers, uintptr(unsafe.Pointer(&iov)), 1, 0, 0); errno != 0 {
		return fmt.Errorf("registering a buffer: %w", errno)
	}
	return nil
}

// Do submits the requests together, waits until all are complete and returns the
// sum of their results. A single one is submitted again if it was canceled, and so
// wrote nothing: 5.10 does that when another thread of the process ends (seen).
func (r *Ring) Do(sqes ...SQE) (int64, error) {
	for {
		n, err := r.once(sqes...)
		if len(sqes) > 1 || !errors.Is(err, unix.ECANCELED) {
			return n, err
		}
	}
}

func (r *Ring) once(sqes ...SQE) (int64, error) {
	mask := *word(r.sqMem, r.p.sq.ringMask)
	for i, sqe := range sqes {
		slot := (*r.sqTail + uint32(i)) & mask
		*(*SQE)(unsafe.Pointer(&r.sqes[uintptr(slot)*unsafe.Sizeof(sqe)])) = sqe
		*word(r.sqMem, r.p.sq.array+4*slot) = slot
	}
	count := uint32(len(sqes))
	atomic.AddUint32(r.sqTail, count)
	submit := uintptr(count)
	for atomic.LoadUint32(r.cqTail)-*r.cqHead < count {
		flags := uintptr(enterGetEvents)
		if r.p.flags&setupSQPoll != 0 {
			submit = 0
			if atomic.LoadUint32(r.sqFlags)&sqNeedWakeup != 0 {
				flags |= enterSQWakeup
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

// reap takes the results of count requests: their sum, also where others failed, and
// the error of the first that did.
func (r *Ring) reap(count uint32) (int64, error) {
	mask := *word(r.cqMem, r.p.cq.ringMask)
	sum, failed := int64(0), error(nil)
	for range count {
		slot := *r.cqHead & mask
		cqe := (*cqe)(unsafe.Pointer(&r.cqMem[r.p.cq.cqes+slot*uint32(unsafe.Sizeof(cqe{}))]))
		if cqe.res >= 0 {
			sum += int64(cqe.res)
		} else if failed == nil {
			failed = fmt.Errorf("io_uring request: %w", unix.Errno(-cqe.res))
		}
		atomic.AddUint32(r.cqHead, 1)
	}
	return sum, failed
}

// Rename is rename(2).
func (r *Ring) Rename(from, to string) error {
	here := int32(unix.AT_FDCWD)
	return r.names(SQE{Opcode: opRename, FD: here, Length: uint32(here)}, from, to)
}

// Unlink is unlink(2).
func (r *Ring) Unlink(path string) error {
	return r.names(SQE{Opcode: opUnlink, FD: unix.AT_FDCWD}, path, "")
}

func (r *Ring) names(sqe SQE, path, to string) error {
	var pinner runtime.Pinner
	defer pinner.Unpin()
	pointer := func(s string) (uint64, error) {
		p, err := unix.BytePtrFromString(s)
		if err != nil {
			return 0, err
		}
		pinner.Pin(p)
		return uint64(uintptr(unsafe.Pointer(p))), nil
	}
	var err error
	if sqe.Address, err = pointer(path); err != nil {
		return err
	}
	if to != "" {
		if sqe.Offset, err = pointer(to); err != nil {
			return err
		}
	}
	_, err = r.Do(sqe)
	return err
}
