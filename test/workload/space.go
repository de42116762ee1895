//go:build linux

package main

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/test/calls"
	"github.com/layertrace/layertrace/test/workload/proto"
)

func truncateOp(a *opArgs, _ *proto.Result) error {
	return unix.Truncate(a.path("path"), a.number("size", 0))
}

func ftruncateOp(a *opArgs, _ *proto.Result) error {
	f, err := open(a.path("path"), unix.O_WRONLY|unix.O_CREAT, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Ftruncate(int(f.Fd()), a.number("size", 0))
}

func fallocateOp(a *opArgs, _ *proto.Result) error {
	name := a.text("kind", "plain")
	if name == "fill" {
		return fillUp(a.path("path"))
	}
	mode, ok := calls.FallocateModes[name]
	if !ok {
		return fmt.Errorf("unknown kind %q", name)
	}
	f, err := open(a.path("path"), unix.O_WRONLY|unix.O_CREAT, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Fallocate(int(f.Fd()), mode, a.number("offset", 0), a.number("size", 0))
}

// fillUp gives a file all the space that there is, in ever smaller pieces, because some
// file systems give a piece wholly or not at all. It ends with ENOSPC.
func fillUp(path string) error {
	f, err := open(path, unix.O_WRONLY|unix.O_CREAT, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	for piece := int64(1) << 40; ; {
		var is unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &is); err != nil {
			return err
		}
		err := unix.Fallocate(int(f.Fd()), 0, is.Size, piece)
		switch {
		case err == nil:
		case err != unix.ENOSPC || piece == 4096:
			return err
		default:
			piece /= 2
		}
	}
}
