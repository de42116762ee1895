package model

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// holdOp keeps a file open.
func holdOp(w *worker, o *op) error {
	if o.Choice == "read only" {
		return holdReadOnly(w, o)
	}
	flags := map[string]int{"append": unix.O_APPEND, "trunc": unix.O_TRUNC}[o.Choice]
	fd, err := w.open(o.Path, readWrite|flags)
	if err != nil {
		return err
	}
	return w.keep(o.Slot, slot{fd: fd, append: o.Choice == "append"})
}

// holdReadOnly keeps a file open that may have been the image's when it was
// opened, and is in the layer since: only of such a file fstat tells what it
// takes there.
func holdReadOnly(w *worker, o *op) error {
	fd, err := w.open(o.Path, unix.O_RDONLY)
	if err != nil {
		return err
	}
	again, err := openRegular(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_RDWR)
	if err != nil {
		unix.Close(fd)
		return err
	}
	unix.Close(again)
	return w.keep(o.Slot, slot{fd: fd})
}

func holdDirOp(w *worker, o *op) error {
	fd, err := unix.Open(w.path(o.Path), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	// For the same reason as in holdReadOnly.
	if err := unix.Fchmod(fd, 0o755); err != nil {
		unix.Close(fd)
		return err
	}
	return w.keep(o.Slot, slot{fd: fd})
}

// holdMapOp keeps a mapping and no descriptor that could write.
func holdMapOp(w *worker, o *op) error {
	fd, err := w.open(o.Path, readWrite)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	memory, err := unix.Mmap(fd, 0, int(o.Size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	name, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		_ = unix.Munmap(memory)
		return err
	}
	return w.keep(o.Slot, slot{fd: name, memory: memory})
}

func tmpfileOp(w *worker, o *op) error {
	fd, err := unix.Open(w.path(o.Path), unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	return w.keep(o.Slot, slot{fd: fd})
}

// adoptOp opens what another worker holds in the slot of that number, whether it
// has a name or not.
func adoptOp(w *worker, o *op) error {
	fd, err := openRegular(fmt.Sprintf("/proc/%d/fd/%d", w.peers[o.Peer], firstHeld+o.Slot), unix.O_RDWR)
	if err != nil {
		return err
	}
	return w.keep(o.Slot, slot{fd: fd})
}

func releaseOp(w *worker, o *op) error {
	if _, err := w.held(o); err != nil {
		return err
	}
	w.release(o.Slot)
	return nil
}

func heldWriteOp(w *worker, o *op) error {
	s, err := w.held(o)
	if err != nil {
		return err
	}
	if s.append {
		return w.wrote(unix.Write(s.fd, w.data[:o.Size]))
	}
	return w.wrote(unix.Pwrite(s.fd, w.data[:o.Size], o.Offset))
}

// heldStoreOp stores to the mapping that is held, or else to one of its own.
func heldStoreOp(w *worker, o *op) error {
	s, err := w.held(o)
	if err != nil {
		return err
	}
	if s.memory != nil {
		return store(s.memory)
	}
	memory, err := unix.Mmap(s.fd, o.Offset&^(page-1), int(o.Size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Munmap(memory) }()
	return store(memory)
}

func heldTruncateOp(w *worker, o *op) error {
	s, err := w.held(o)
	if err != nil {
		return err
	}
	return unix.Ftruncate(s.fd, o.Size)
}

func heldFallocateOp(w *worker, o *op) error {
	s, err := w.held(o)
	if err != nil {
		return err
	}
	return fallocate(s.fd, o)
}

// heldLinkOp gives a held file a name, the first one if it was made without.
func heldLinkOp(w *worker, o *op) error {
	s, err := w.held(o)
	if err != nil {
		return err
	}
	return unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", s.fd), unix.AT_FDCWD, w.path(o.To), unix.AT_SYMLINK_FOLLOW)
}

func heldSyncOp(w *worker, o *op) error {
	s, err := w.held(o)
	if err != nil {
		return err
	}
	return unix.Fsync(s.fd)
}
