//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/test/workload/proto"
)

// writeAll writes size bytes in pieces of chunk by fn.
func writeAll(res *proto.Result, size, chunk int64, every time.Duration, fn func(p []byte, offset int64) (int, error)) error {
	buf := pattern(min(chunk, size))
	for done := int64(0); done < size; {
		n, err := fn(buf[:min(int64(len(buf)), size-done)], done)
		if err != nil {
			return err
		}
		if n <= 0 {
			return io.ErrShortWrite
		}
		done += int64(n)
		res.Written += int64(n)
		res.Writes++
		pace(every)
	}
	return nil
}

// openFlags are the words that flags= may list, separated by "|".
var openFlags = map[string]int{"sync": unix.O_SYNC, "dsync": unix.O_DSYNC, "direct": unix.O_DIRECT, "append": unix.O_APPEND}

// writeFlags are those of pwritev2.
var writeFlags = map[string]int{"append": unix.RWF_APPEND, "dsync": unix.RWF_DSYNC, "sync": unix.RWF_SYNC}

func (a *opArgs) flags(words map[string]int) int {
	flags := 0
	if !a.given("flags") {
		return flags
	}
	for word := range strings.SplitSeq(a.text("flags", ""), "|") {
		bit, ok := words[word]
		if !ok {
			a.fail("unknown flag %q", word)
		}
		flags |= bit
	}
	return flags
}

func writeOp(extra int) opFunc {
	return func(a *opArgs, res *proto.Result) error {
		path, size := a.path("path"), a.number("size", 0)
		chunk, every := a.number("chunk", 64<<10), a.duration("every")
		f, err := open(path, unix.O_WRONLY|unix.O_CREAT|extra|a.flags(openFlags), uint32(a.number("mode", 0o644)))
		if err != nil {
			return err
		}
		defer f.Close()
		return writeAll(res, size, chunk, every, func(p []byte, _ int64) (int, error) {
			return unix.Write(int(f.Fd()), p)
		})
	}
}

func pwriteOp(a *opArgs, res *proto.Result) error {
	path, size, chunk, base := a.path("path"), a.number("size", 0), a.number("chunk", 64<<10), a.number("offset", 0)
	f, err := open(path, unix.O_WRONLY|unix.O_CREAT, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	return writeAll(res, size, chunk, 0, func(p []byte, off int64) (int, error) {
		return unix.Pwrite(int(f.Fd()), p, base+off)
	})
}

// writevOp writes three pieces a call, with writev, pwritev or pwritev2.
func writevOp(a *opArgs, res *proto.Result) error {
	path, size, chunk, kind := a.path("path"), a.number("size", 0), a.number("chunk", 3<<10), a.text("kind", "writev")
	flags, base := a.flags(writeFlags), a.number("offset", 0)
	f, err := open(path, unix.O_WRONLY|unix.O_CREAT, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	return writeAll(res, size, chunk, 0, func(p []byte, off int64) (int, error) {
		third := len(p) / 3
		iovs := [][]byte{p[:third], p[third : 2*third], p[2*third:]}
		switch kind {
		case "writev":
			return unix.Writev(int(f.Fd()), iovs)
		case "pwritev":
			return unix.Pwritev(int(f.Fd()), iovs, base+off)
		case "pwritev2":
			return unix.Pwritev2(int(f.Fd()), iovs, base+off, flags)
		}
		return 0, fmt.Errorf("unknown kind %q", kind)
	})
}

// rewriteOp writes the same size bytes at offset again and again.
func rewriteOp(a *opArgs, res *proto.Result) error {
	path, size, count := a.path("path"), a.number("size", 4096), a.number("count", 1)
	offset, every := a.number("offset", 0), a.duration("every")
	f, err := open(path, unix.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	for range count {
		err := writeAll(res, size, size, 0, func(p []byte, off int64) (int, error) {
			return unix.Pwrite(int(f.Fd()), p, offset+off)
		})
		if err != nil {
			return err
		}
		pace(every)
	}
	return nil
}

// bulkOp hands count= buffers of chunk= bytes to one call of writev, which takes
// so long that it can be interrupted.
func bulkOp(a *opArgs, res *proto.Result) error {
	f, err := open(a.path("path"), unix.O_WRONLY|unix.O_CREAT, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := pattern(a.number("chunk", 64<<10))
	iovs := make([][]byte, a.number("count", 1))
	for i := range iovs {
		iovs[i] = buf
	}
	n, err := unix.Writev(int(f.Fd()), iovs)
	res.Written, res.Writes = int64(max(n, 0)), 1
	return err
}

// tornOp writes from a buffer of which only the first size= bytes, whole pages,
// can be read: the call returns with less than it was asked for.
func tornOp(a *opArgs, res *proto.Result) error {
	f, err := open(a.path("path"), unix.O_WRONLY|unix.O_CREAT, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	size, page := a.number("size", 0), int64(os.Getpagesize())
	mem, err := unix.Mmap(-1, 0, int(size+page), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return err
	}
	copy(mem, pattern(size))
	if err := unix.Mprotect(mem[size:], unix.PROT_NONE); err != nil {
		return err
	}
	n, err := unix.Write(int(f.Fd()), mem)
	res.Written, res.Writes = int64(max(n, 0)), 1
	if err == nil && int64(n) > size {
		err = fmt.Errorf("wrote %d bytes, of which only %d could be read", n, size)
	}
	return err
}

// limitOp forbids this process to let files grow beyond size= bytes.
func limitOp(a *opArgs, _ *proto.Result) error {
	// Its default is to end the process.
	signal.Ignore(unix.SIGXFSZ)
	size := uint64(a.number("size", 0))
	return unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: size, Max: size})
}

func syncOp(a *opArgs, _ *proto.Result) error {
	f, err := open(a.path("path"), unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	switch kind := a.text("kind", "file"); kind {
	case "file":
		return unix.Fsync(int(f.Fd()))
	case "filesystem":
		return unix.Syncfs(int(f.Fd()))
	default:
		return fmt.Errorf("unknown kind %q", kind)
	}
}

// fillOp writes count files of size bytes each: path followed by a number.
func fillOp(a *opArgs, res *proto.Result) error {
	path, size, every := a.path("path"), a.number("size", 0), a.duration("every")
	for i := range a.number("count", 1) {
		f, err := open(fmt.Sprintf("%s%d", path, i), unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC, 0o644)
		if err != nil {
			return err
		}
		err = writeAll(res, size, 64<<10, 0, func(p []byte, _ int64) (int, error) { return unix.Write(int(f.Fd()), p) })
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
		pace(every)
	}
	return nil
}
