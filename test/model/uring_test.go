package model

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/test/calls"
)

// uringOp writes or allocates by requests to an io_uring.
func uringOp(w *worker, o *op) error {
	return w.opened(o.Path, writeOnly, func(fd int) error {
		r, err := calls.NewRing(o.Choice == "polled")
		if err != nil {
			return err
		}
		if o.Choice == "polled" {
			defer awaitThreads("iou-sqp-")
		}
		defer r.Close()
		sqe := calls.SQE{
			Opcode: calls.OpWrite, FD: int32(fd), Offset: uint64(o.Offset),
			Address: uint64(uintptr(unsafe.Pointer(&w.aligned[0]))), Length: uint32(o.Size),
		}
		submit := func(sqes ...calls.SQE) error {
			n, err := r.Do(sqes...)
			return w.wrote(int(n), err)
		}
		switch o.Choice {
		case "fixed":
			if err := r.Register(w.aligned); err != nil {
				return err
			}
			sqe.Opcode = calls.OpWriteFixed
		case "linked":
			return submit(linked(sqe)...)
		case "async":
			sqe.Flags = calls.SQEAsync
		case "splice":
			return piped(func(pipe int) (int, error) { return unix.Write(pipe, w.data[:o.Size]) }, func(pipe, n int) error {
				// A pipe has no offset.
				return submit(calls.SQE{Opcode: calls.OpSplice, FD: int32(fd), SpliceFrom: int32(pipe), Offset: uint64(o.Offset), Address: ^uint64(0), Length: uint32(n)})
			})
		case "fallocate":
			// The length goes where a write has its buffer.
			_, err := r.Do(calls.SQE{Opcode: calls.OpFallocate, FD: int32(fd), Offset: uint64(o.Offset), Address: uint64(o.Size)})
			return err
		}
		return submit(sqe)
	})
}

// linked cuts a write into as many as a ring takes at once, each of which waits for the
// one before it.
func linked(sqe calls.SQE) (all []calls.SQE) {
	piece := (sqe.Length + calls.RingEntries - 1) / calls.RingEntries
	for left := sqe.Length; ; {
		sqe.Length, sqe.Flags = min(piece, left), calls.SQELink
		all = append(all, sqe)
		if left -= sqe.Length; left == 0 {
			all[len(all)-1].Flags = 0
			return all
		}
		sqe.Offset += uint64(sqe.Length)
	}
}

// awaitThreads waits for the end of kernel threads of ours by the beginning of their
// names: they may be the last to let go of a file, after the request is complete.
func awaitThreads(prefix string) {
	for end := time.Now().Add(time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		names, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/comm", os.Getpid()))
		found := false
		for _, name := range names {
			comm, _ := os.ReadFile(name)
			found = found || strings.HasPrefix(string(comm), prefix)
		}
		if !found {
			return
		}
	}
}

// uringNameOp changes names by a request, which Linux knows since 5.11.
func uringNameOp(w *worker, o *op) error {
	r, err := calls.NewRing(false)
	if err != nil {
		return err
	}
	defer r.Close()
	if o.Choice == "unlink" {
		return r.Unlink(w.path(o.Path))
	}
	return r.Rename(w.path(o.Path), w.path(o.To))
}
