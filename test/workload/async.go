//go:build linux

package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/test/calls"
	"github.com/layertrace/layertrace/test/workload/proto"
)

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
	aio, err := calls.NewAIO()
	if err != nil {
		return err
	}
	defer aio.Close()
	for done := int64(0); done < size; {
		n, err := aio.Write(int(f.Fd()), mem[:min(chunk, size-done)], done)
		if err != nil {
			return err
		}
		if n == 0 {
			return fmt.Errorf("the asynchronous write wrote nothing at %d", done)
		}
		done += int64(n)
		res.Written += int64(n)
		res.Writes++
	}
	return nil
}
