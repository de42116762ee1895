//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// work is something to be measured.
type work struct {
	name string
	n    int // how many operations a round does
	by   whose
	// prepare makes ready what is not measured, and returns the operation; i counts.
	prepare func(o *overlay) (step func(i int) error, done func() error, err error)
}

// measure does the work and returns how long one operation took, in the clock's unit.
func (w *work) measure(o *overlay) (took float64, err error) {
	step, done, err := w.prepare(o)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, done()) }()
	runtime.GC() // and not while the clock runs
	took, err = timed(w.by, func() error {
		for i := range w.n {
			if err := step(i); err != nil {
				return err
			}
		}
		return nil
	})
	return took / float64(w.n), err
}

var pages = make([]byte, 64<<10)

// operations are single calls.
func operations(o *options) []work {
	n := o.ops
	few := max(n/10, 1)
	return []work{
		{"1 byte to /dev/null", n, thread, onFile(devNull, unix.O_WRONLY, write(1))},
		{"1 byte to a pipe", n, thread, onPair(unix.Pipe)},
		{"1 byte to a socket", n, thread, onPair(func(fds []int) error {
			pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
			fds[0], fds[1] = pair[0], pair[1]
			return err
		})},
		{"1 byte to a file outside, in place", n, thread, onFile(outside, unix.O_RDWR|unix.O_CREAT, inPlace)},
		{"4 KiB appended outside", n, thread, onFile(outside, appending, write(4<<10))},
		{"1 byte to a file of the layer, in place", n, thread, onFile(inLayer, unix.O_RDWR|unix.O_CREAT, inPlace)},
		{"1 byte appended in the layer", n, thread, onFile(inLayer, appending, write(1))},
		{"4 KiB appended in the layer", n, thread, onFile(inLayer, appending, write(4<<10))},
		{"64 KiB appended in the layer", few, thread, onFile(inLayer, appending, write(64<<10))},
		{"4 KiB appended and synced", few, thread, onFile(inLayer, appending, synced)},
		{"store to 4 KiB of a mapping", few, thread, stores(few)},
		{"file created and unlinked", few, thread, createUnlink},
		{"rename", few, thread, renames},
		{"copy-up of 1 KiB by chmod", smallCopies, thread, copyUps("small")},
		{"copy-up of 10 MiB by chmod", largeCopies, thread, copyUps("large")},
	}
}

const appending = unix.O_WRONLY | unix.O_CREAT | unix.O_APPEND

func devNull(*overlay) string     { return os.DevNull }
func outside(o *overlay) string   { return o.g.outside + "/file" }
func inLayer(o *overlay) string   { return o.merged + "/file" }
func inPlace(fd int) (int, error) { return unix.Pwrite(fd, pages[:1], 0) }
func write(n int) func(int) (int, error) {
	return func(fd int) (int, error) { return unix.Write(fd, pages[:n]) }
}

func synced(fd int) (int, error) {
	if n, err := unix.Write(fd, pages[:4<<10]); err != nil {
		return n, err
	}
	return 0, unix.Fsync(fd)
}

// onFile does something to an open file, which goes afterwards.
func onFile(path func(*overlay) string, flags int, do func(fd int) (int, error)) func(*overlay) (func(int) error, func() error, error) {
	return func(o *overlay) (func(int) error, func() error, error) {
		name := path(o)
		fd, err := unix.Open(name, flags|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return nil, nil, fmt.Errorf("opening %s: %w", name, err)
		}
		step := func(int) error { _, err := do(fd); return err }
		done := func() error {
			err := unix.Close(fd)
			if name != os.DevNull {
				err = errors.Join(err, os.Remove(name))
			}
			return err
		}
		// Twice, for what the first time costs: pages, blocks, a counter.
		return step, done, errors.Join(step(0), step(0))
	}
}

// onPair writes a byte to one end and reads it from the other.
func onPair(open func([]int) error) func(*overlay) (func(int) error, func() error, error) {
	return func(*overlay) (func(int) error, func() error, error) {
		fds := make([]int, 2)
		if err := open(fds); err != nil {
			return nil, nil, err
		}
		var buf [1]byte
		step := func(int) error {
			if _, err := unix.Write(fds[1], pages[:1]); err != nil {
				return err
			}
			_, err := unix.Read(fds[0], buf[:])
			return err
		}
		return step, func() error { return errors.Join(unix.Close(fds[0]), unix.Close(fds[1])) }, step(0)
	}
}

// stores makes each of n pages of a mapped file dirty.
func stores(n int) func(*overlay) (func(int) error, func() error, error) {
	return func(o *overlay) (func(int) error, func() error, error) {
		f, err := os.Create(inLayer(o))
		if err != nil {
			return nil, nil, err
		}
		size := n * os.Getpagesize()
		if err := f.Truncate(int64(size)); err != nil {
			return nil, nil, err
		}
		area, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			return nil, nil, err
		}
		step := func(i int) error { area[i*os.Getpagesize()] = 1; return nil }
		return step, func() error { return errors.Join(unix.Munmap(area), f.Close(), os.Remove(f.Name())) }, nil
	}
}

func nothing() error { return nil }

func createUnlink(o *overlay) (func(int) error, func() error, error) {
	name := inLayer(o)
	return func(int) error {
		fd, err := unix.Open(name, appending|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return err
		}
		return errors.Join(unix.Close(fd), unix.Unlink(name))
	}, nothing, nil
}

func renames(o *overlay) (func(int) error, func() error, error) {
	names := [2]string{inLayer(o), inLayer(o) + ".1"}
	if err := os.WriteFile(names[0], nil, 0o600); err != nil {
		return nil, nil, err
	}
	// Each operation is there and back, so that it ends where it began.
	return func(int) error {
		return errors.Join(unix.Rename(names[0], names[1]), unix.Rename(names[1], names[0]))
	}, func() error { return os.Remove(names[0]) }, nil
}

func copyUps(kind string) func(*overlay) (func(int) error, func() error, error) {
	return func(o *overlay) (func(int) error, func() error, error) {
		// Of the image's file, so that each mode finds it read already.
		for _, path := range must(filepath.Glob(o.g.lower + "/" + kind + "-*")) {
			if _, err := os.ReadFile(path); err != nil {
				return nil, nil, err
			}
		}
		return func(i int) error { return unix.Chmod(imageFile(o.merged, kind, i), 0o600) }, nothing, nil
	}
}

// must is for what does not fail here.
func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}
