//go:build linux

package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/test/calls"
	"github.com/layertrace/layertrace/test/workload/proto"
)

// transfer opens from= and path= for the calls that move data from file to file.
func transfer(a *opArgs) (from, to *os.File, size int64, err error) {
	if from, err = open(a.path("from"), unix.O_RDONLY, 0); err != nil {
		return nil, nil, 0, err
	}
	if to, err = open(a.path("path"), unix.O_WRONLY|unix.O_CREAT, 0o644); err != nil {
		from.Close()
		return nil, nil, 0, err
	}
	st, err := from.Stat()
	if err != nil {
		from.Close()
		to.Close()
		return nil, nil, 0, err
	}
	return from, to, a.number("size", st.Size()), nil
}

func moveAll(a *opArgs, res *proto.Result, fn func(from, to int, left int) (int, error)) error {
	from, to, size, err := transfer(a)
	if err != nil {
		return err
	}
	defer from.Close()
	defer to.Close()
	for left := size; left > 0; {
		n, err := fn(int(from.Fd()), int(to.Fd()), int(left))
		if err != nil {
			return err
		}
		if n == 0 {
			return fmt.Errorf("the source ended %d bytes early", left)
		}
		left -= int64(n)
		res.Written += int64(n)
		res.Writes++
	}
	return nil
}

func copyRangeOp(a *opArgs, res *proto.Result) error {
	return moveAll(a, res, func(from, to, left int) (int, error) {
		return unix.CopyFileRange(from, nil, to, nil, left, 0)
	})
}

func sendfileOp(a *opArgs, res *proto.Result) error {
	return moveAll(a, res, func(from, to, left int) (int, error) {
		return unix.Sendfile(to, from, nil, left)
	})
}

func spliceOp(a *opArgs, res *proto.Result) error {
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
		done := int64(0)
		for done < in {
			n, err := unix.Splice(pipe[0], nil, to, nil, int(in-done), 0)
			if err != nil {
				return 0, err
			}
			done += n
		}
		return int(done), nil
	})
}

// vmspliceOp moves pages of its own memory through a pipe into the file.
func vmspliceOp(a *opArgs, res *proto.Result) error {
	path, size := a.path("path"), a.number("size", 0)
	f, err := open(path, unix.O_WRONLY|unix.O_CREAT, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return err
	}
	defer unix.Close(pipe[0])
	defer unix.Close(pipe[1])
	return writeAll(res, size, 64<<10, 0, func(p []byte, _ int64) (int, error) {
		iov := unix.Iovec{Base: &p[0]}
		iov.SetLen(len(p))
		in, err := unix.Vmsplice(pipe[1], []unix.Iovec{iov}, 0)
		if err != nil {
			return 0, fmt.Errorf("vmsplice: %w", err)
		}
		for done := 0; done < in; {
			n, err := unix.Splice(pipe[0], nil, int(f.Fd()), nil, in-done, 0)
			if err != nil {
				return 0, fmt.Errorf("splice: %w", err)
			}
			done += int(n)
		}
		return in, nil
	})
}

// cloneOp shares the extents of from= with path=: all of them or, if size= is
// given, those at offset=, to the same offset.
func cloneOp(a *opArgs, _ *proto.Result) error {
	part := a.given("size")
	from, to, size, err := transfer(a)
	if err != nil {
		return err
	}
	defer from.Close()
	defer to.Close()
	if !part {
		return unix.IoctlFileClone(int(to.Fd()), int(from.Fd()))
	}
	offset := uint64(a.number("offset", 0))
	return unix.IoctlFileCloneRange(int(to.Fd()), &unix.FileCloneRange{
		Src_fd: int64(from.Fd()), Src_offset: offset, Src_length: uint64(size), Dest_offset: offset,
	})
}

// dedupeOp lets path= share the extents of from=, which must have the same content.
func dedupeOp(a *opArgs, _ *proto.Result) error {
	from, to, size, err := transfer(a)
	if err != nil {
		return err
	}
	defer from.Close()
	defer to.Close()
	shared, err := calls.Dedupe(int(from.Fd()), int(to.Fd()), 0, 0, size)
	if err == nil && shared != size {
		err = fmt.Errorf("shared %d bytes of %d", shared, size)
	}
	return err
}
