//go:build linux

package main

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/test/calls"
	"github.com/layertrace/layertrace/test/workload/proto"
)

// uringOp does kind= through io_uring. With sqpoll=1 a kernel thread submits the
// requests, with async=1 a worker thread carries them out.
func uringOp(a *opArgs, res *proto.Result) error {
	r, err := calls.NewRing(a.given("sqpoll"))
	if err != nil {
		return err
	}
	defer r.Close()
	flags := uint8(0)
	if a.given("async") {
		flags = calls.SQEAsync
	}
	switch kind := a.text("kind", "write"); kind {
	case "rename":
		return r.Rename(a.path("from"), a.path("path"))
	case "unlink":
		return r.Unlink(a.path("path"))
	case "splice":
		return uringSplice(r, a, res)
	case "fallocate":
		f, err := openAsync(a)
		if err != nil {
			return err
		}
		defer f.Close()
		// The length of a fallocate request goes where a write has its buffer.
		_, err = r.Do(calls.SQE{Opcode: calls.OpFallocate, Flags: flags, FD: int32(f.Fd()), Address: uint64(a.number("size", 0))})
		return err
	case "write":
		return uringWrite(r, a, res, calls.SQE{Opcode: calls.OpWrite, Flags: flags}, 1)
	case "linked":
		return uringWrite(r, a, res, calls.SQE{Opcode: calls.OpWrite, Flags: flags}, calls.RingEntries)
	case "fixed":
		return uringWrite(r, a, res, calls.SQE{Opcode: calls.OpWriteFixed, Flags: flags}, 1)
	default:
		return fmt.Errorf("unknown kind %q", kind)
	}
}

// uringWrite writes size= bytes in pieces of chunk=, so many of them at a time, each
// after the one before it.
func uringWrite(r *calls.Ring, a *opArgs, res *proto.Result, sqe calls.SQE, linked int) error {
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
	if sqe.Opcode == calls.OpWriteFixed {
		if err := r.Register(mem); err != nil {
			return err
		}
	}
	sqe.FD, sqe.Address = int32(f.Fd()), uint64(uintptr(unsafe.Pointer(&mem[0])))
	for done := int64(0); done < size; {
		var batch []calls.SQE
		for off := done; off < size && len(batch) < linked; off += chunk {
			sqe.Offset, sqe.Length = uint64(off), uint32(min(chunk, size-off))
			batch = append(batch, sqe)
		}
		for i := range batch[:len(batch)-1] {
			batch[i].Flags |= calls.SQELink
		}
		n, err := r.Do(batch...)
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

// uringSplice moves from= through a pipe to path=; the half out of the pipe is
// io_uring's.
func uringSplice(r *calls.Ring, a *opArgs, res *proto.Result) error {
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
			n, err := r.Do(calls.SQE{Opcode: calls.OpSplice, FD: int32(to), SpliceFrom: int32(pipe[0]), Offset: ^uint64(0), Address: ^uint64(0), Length: uint32(in - done)})
			if err != nil {
				return 0, err
			}
			done += n
		}
		return int(in), nil
	})
}
