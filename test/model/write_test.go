package model

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/test/calls"
)

// errFault is a store to a page of a mapping that the file does not have.
var errFault = errors.New("fault")

const (
	page      = 4096
	writeOnly = unix.O_WRONLY | unix.O_CREAT
	readWrite = unix.O_RDWR | unix.O_CREAT
)

func pwriteOp(w *worker, o *op) error {
	return w.opened(o.Path, writeOnly, func(fd int) error {
		return w.wrote(unix.Pwrite(fd, w.data[:o.Size], o.Offset))
	})
}

// appendOp writes twice, so that most of these cross a block's end.
func appendOp(w *worker, o *op) error {
	return w.opened(o.Path, writeOnly|unix.O_APPEND, func(fd int) error {
		if err := w.wrote(unix.Write(fd, w.data[:o.Size/2])); err != nil {
			return err
		}
		return w.wrote(unix.Write(fd, w.data[:o.Size-o.Size/2]))
	})
}

func overwriteOp(w *worker, o *op) error {
	return w.opened(o.Path, writeOnly|unix.O_TRUNC, func(fd int) error {
		return w.wrote(unix.Write(fd, w.data[:o.Size]))
	})
}

// thirds cuts a buffer into three.
func thirds(b []byte) [][]byte {
	n := len(b) / 3
	return [][]byte{b[:n], b[n : 2*n], b[2*n:]}
}

func writevOp(w *worker, o *op) error {
	return w.opened(o.Path, writeOnly, func(fd int) error {
		if _, err := unix.Seek(fd, o.Offset, unix.SEEK_SET); err != nil {
			return err
		}
		return w.wrote(unix.Writev(fd, thirds(w.data[:o.Size])))
	})
}

func pwritev2Op(w *worker, o *op) error {
	flags := map[string]int{"append": unix.RWF_APPEND, "dsync": unix.RWF_DSYNC, "sync": unix.RWF_SYNC}[o.Choice]
	return w.opened(o.Path, writeOnly, func(fd int) error {
		return w.wrote(unix.Pwritev2(fd, thirds(w.data[:o.Size]), o.Offset, flags))
	})
}

// syncWriteOp writes through a descriptor that has each write wait for the disk.
func syncWriteOp(w *worker, o *op) error {
	flags := map[string]int{"sync": unix.O_SYNC, "dsync": unix.O_DSYNC, "append": unix.O_SYNC | unix.O_APPEND}[o.Choice]
	return w.opened(o.Path, writeOnly|flags, func(fd int) error {
		if o.Choice == "append" {
			return w.wrote(unix.Write(fd, w.data[:o.Size]))
		}
		return w.wrote(unix.Pwrite(fd, w.data[:o.Size], o.Offset))
	})
}

// directOp writes past the page cache where offset and size allow that.
func directOp(w *worker, o *op) error {
	return w.opened(o.Path, writeOnly|unix.O_DIRECT, func(fd int) error {
		return w.wrote(unix.Pwrite(fd, w.aligned[:o.Size], o.Offset))
	})
}

// aioOp is a write by io_submit, whose end may be in a thread of the kernel.
func aioOp(w *worker, o *op) error {
	flags := writeOnly
	if o.Choice == "direct" {
		flags |= unix.O_DIRECT
	}
	return w.opened(o.Path, flags, func(fd int) error {
		aio, err := calls.NewAIO()
		if err != nil {
			return err
		}
		defer aio.Close()
		return w.wrote(aio.Write(fd, w.aligned[:o.Size], o.Offset))
	})
}

// scatter writes bytes that do not touch, one a block at most: extents that a
// file's inode has no room for.
func (w *worker) scatter(fd int, o *op) error {
	for i := range min(o.Size/1000, 12) {
		if err := w.wrote(unix.Pwrite(fd, w.data[:1], o.Offset+i*2*page)); err != nil {
			return err
		}
	}
	return nil
}

func scatterOp(w *worker, o *op) error {
	return w.opened(o.Path, writeOnly, func(fd int) error { return w.scatter(fd, o) })
}

// transfer opens the file that an operation reads and the one that it writes.
func (w *worker) transfer(o *op, fn func(from, to int) error) error {
	return w.opened(o.Path, unix.O_RDONLY, func(from int) error {
		return w.opened(o.To, readWrite, func(to int) error { return fn(from, to) })
	})
}

func copyRangeOp(w *worker, o *op) error {
	return w.transfer(o, func(from, to int) error {
		at := o.Offset
		return w.wrote(unix.CopyFileRange(from, nil, to, &at, int(o.Size), 0))
	})
}

func sendfileOp(w *worker, o *op) error {
	return w.transfer(o, func(from, to int) error {
		if _, err := unix.Seek(to, o.Offset, unix.SEEK_SET); err != nil {
			return err
		}
		return w.wrote(unix.Sendfile(to, from, nil, int(o.Size)))
	})
}

// piped calls fn with a pipe that fill has put some bytes into, and their number.
func piped(fill func(pipe int) (int, error), fn func(pipe, n int) error) error {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return err
	}
	defer unix.Close(pipe[0])
	defer unix.Close(pipe[1])
	n, err := fill(pipe[1])
	if err != nil {
		return err
	}
	return fn(pipe[0], n)
}

// spliced moves what fill has put into a pipe into a file.
func (w *worker) spliced(o *op, fill func(pipe int) (int, error)) error {
	return w.opened(o.Path, writeOnly, func(fd int) error {
		return piped(fill, func(pipe, n int) error {
			at := o.Offset
			moved, err := unix.Splice(pipe, nil, fd, &at, n, 0)
			return w.wrote(int(moved), err)
		})
	})
}

// spliceOp moves bytes from a pipe into a file.
func spliceOp(w *worker, o *op) error {
	return w.spliced(o, func(pipe int) (int, error) { return unix.Write(pipe, w.data[:o.Size]) })
}

// vmspliceOp moves pages of its own memory through a pipe into a file.
func vmspliceOp(w *worker, o *op) error {
	return w.spliced(o, func(pipe int) (int, error) {
		iov := unix.Iovec{Base: &w.aligned[0]}
		iov.SetLen(int(o.Size))
		return unix.Vmsplice(pipe, []unix.Iovec{iov}, 0)
	})
}

func cloneOp(w *worker, o *op) error {
	return w.transfer(o, func(from, to int) error {
		var err error
		if o.Choice == "whole" {
			err = unix.IoctlFileClone(to, from)
		} else {
			err = unix.IoctlFileCloneRange(to, &unix.FileCloneRange{Src_fd: int64(from), Src_length: page})
		}
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Fstat(to, &st); err != nil {
			return err
		}
		w.perhaps += st.Size
		return nil
	})
}

// dedupeOp lets two files share what is the same in them, or has just been made so.
func dedupeOp(w *worker, o *op) error {
	// Files of the image share nothing with those of the layer.
	return w.opened(o.Path, readWrite, func(from int) error {
		return w.opened(o.To, readWrite, func(to int) error {
			for _, fd := range []int{from, to} {
				if o.Choice == "as it is" {
					continue
				}
				if err := w.wrote(unix.Pwrite(fd, w.data[:o.Size], o.Offset)); err != nil {
					return err
				}
			}
			shared, err := calls.Dedupe(from, to, o.Offset, o.Offset, o.Size)
			if err == nil && shared == 0 {
				err = unix.EBADE // they are not the same
			}
			return err
		})
	})
}

func truncateOp(w *worker, o *op) error {
	if o.Choice == "path" {
		return unix.Truncate(w.path(o.Path), o.Size)
	}
	return w.opened(o.Path, writeOnly, func(fd int) error { return unix.Ftruncate(fd, o.Size) })
}

func fallocate(fd int, o *op) error {
	return unix.Fallocate(fd, calls.FallocateModes[o.Choice], o.Offset, o.Size)
}

func fallocateOp(w *worker, o *op) error {
	return w.opened(o.Path, writeOnly, func(fd int) error { return fallocate(fd, o) })
}

// storeOp stores to a mapping whose descriptor is closed.
func storeOp(w *worker, o *op) error {
	fd, err := w.open(o.Path, readWrite)
	if err != nil {
		return err
	}
	start := o.Offset &^ (page - 1)
	if o.Choice == "extended" {
		// What is added is a hole.
		var st unix.Stat_t
		err := unix.Fstat(fd, &st)
		if err == nil && st.Size < start+o.Size {
			err = unix.Ftruncate(fd, start+o.Size)
		}
		if err != nil {
			unix.Close(fd)
			return err
		}
	}
	memory, err := unix.Mmap(fd, start, int(o.Size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	unix.Close(fd)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Munmap(memory) }()
	if err := store(memory); err != nil || o.Choice != "synced" {
		return err
	}
	return unix.Msync(memory, unix.MS_SYNC)
}

// store stores a byte to each page of a mapping. Beyond the end of its file that
// is a fault, which work has made a panic.
func store(memory []byte) (err error) {
	defer func() {
		if recover() != nil {
			err = errFault
		}
	}()
	for i := 0; i < len(memory); i += page {
		memory[i] = 'm'
	}
	return nil
}

func fsyncOp(w *worker, o *op) error {
	return w.opened(o.Path, unix.O_RDONLY, func(fd int) error {
		if o.Choice == "data" {
			return unix.Fdatasync(fd)
		}
		return unix.Fsync(fd)
	})
}

func syncOp(w *worker, o *op) error {
	if o.Choice == "all" {
		unix.Sync()
		return nil
	}
	fd, err := unix.Open(w.root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Syncfs(fd)
}

// dropCachesOp makes the kernel forget dentries and inodes that nobody uses.
func dropCachesOp(*worker, *op) error {
	fd, err := unix.Open("/proc/sys/vm/drop_caches", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.Write(fd, []byte("2"))
	return err
}

// collectOp ends an interval: where operations come one at a time, the test does
// that instead; elsewhere it does so all the time.
func collectOp(*worker, *op) error { return nil }
