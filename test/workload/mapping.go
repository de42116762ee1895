//go:build linux

package main

import (
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/test/calls"
	"github.com/layertrace/layertrace/test/workload/proto"
)

// mapped holds the shared mappings that "map" made, by the path of their file.
var mapped = map[string][]byte{}

// mmapOp stores one byte into each page of an existing file's [offset, offset+size),
// with kind=private into a copy of them.
func mmapOp(a *opArgs, _ *proto.Result) error {
	sharing := unix.MAP_SHARED
	if a.text("kind", "shared") == "private" {
		sharing = unix.MAP_PRIVATE
	}
	f, err := open(a.path("path"), unix.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	mem, err := unix.Mmap(int(f.Fd()), a.number("offset", 0), int(a.number("size", 4096)), unix.PROT_READ|unix.PROT_WRITE, sharing)
	if err != nil {
		return err
	}
	storeInto(mem)
	if a.given("sync") {
		if err := unix.Msync(mem, unix.MS_SYNC); err != nil {
			return err
		}
	}
	return unix.Munmap(mem)
}

// storeInto stores one byte into each page.
func storeInto(mem []byte) {
	for i := 0; i < len(mem); i += os.Getpagesize() {
		mem[i] = 'm'
	}
}

// mapOp maps the first size= bytes of a file. It uses the descriptor that is kept
// for path=, or else one that it closes before it returns.
func mapOp(a *opArgs, _ *proto.Result) error {
	path, size := a.path("path"), a.number("size", 4096)
	f := kept[path]
	if f == nil {
		var err error
		if f, err = open(path, unix.O_RDWR, 0); err != nil {
			return err
		}
		defer f.Close()
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	mapped[path] = mem
	return err
}

// mappedPart is [offset=, offset=+size=) of the mapping of path=.
func mappedPart(a *opArgs) ([]byte, error) {
	path, offset, size := a.path("path"), a.number("offset", 0), a.number("size", 4096)
	mem := mapped[path]
	if offset < 0 || size <= 0 || offset+size > int64(len(mem)) {
		return nil, fmt.Errorf("%q is mapped for %d bytes", path, len(mem))
	}
	return mem[offset : offset+size], nil
}

func storeOp(a *opArgs, _ *proto.Result) error {
	mem, err := mappedPart(a)
	if err != nil {
		return err
	}
	storeInto(mem)
	return nil
}

// forkStoreOp is storeOp by a child, called name=, that inherits the mapping.
func forkStoreOp(a *opArgs, _ *proto.Result) error {
	mem, err := mappedPart(a)
	if err != nil {
		return err
	}
	name, err := unix.BytePtrFromString(a.path("name"))
	if err != nil {
		return err
	}
	err = calls.WithoutSignals(func() error {
		pid, errno := forkStore(name, unsafe.Pointer(&mem[0]), uintptr(len(mem)), uintptr(os.Getpagesize()))
		if errno != 0 {
			return errno
		}
		return calls.Reap(pid)
	})
	runtime.KeepAlive(name)
	return err
}

func unmapOp(a *opArgs, _ *proto.Result) error {
	path := a.path("path")
	mem := mapped[path]
	delete(mapped, path)
	return unix.Munmap(mem)
}
