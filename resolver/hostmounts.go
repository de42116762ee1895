package resolver

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// hostMounts is the host's mount table. It is read again only when the kernel
// says that it has changed: on a host with a thousand containers it has a megabyte.
// Safe for concurrent use, except close.
type hostMounts struct {
	path    string
	changed func(*os.File) bool
	odd     *oddities // tells of lines that are none; may be nil

	mu    sync.Mutex
	file  *os.File // nil if it was not opened yet
	table mountTable
}

// read returns the table as it is now. The caller must not change it.
func (h *hostMounts) read() (mountTable, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.file != nil && !h.changed(h.file) {
		return h.table, nil
	}
	table, err := h.readAgain()
	if err != nil {
		h.close()
		return nil, fmt.Errorf("reading mount table: %w", err)
	}
	h.table = table
	return table, nil
}

func (h *hostMounts) readAgain() (mountTable, error) {
	if h.file == nil {
		// Opened before it is read: from here on the kernel tells of changes.
		file, err := openMounts(h.path)
		if err != nil {
			return nil, err
		}
		h.file = file
	}
	if _, err := h.file.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	data, err := io.ReadAll(h.file)
	if err != nil {
		return nil, err
	}
	return parseMounts(data, h.odd), nil
}

// openMounts opens a mountinfo file so that the Go runtime does not wait for it: the
// kernel tells an open file of a change once, and it would be the runtime that was
// told.
func openMounts(name string) (*os.File, error) {
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

func (h *hostMounts) close() {
	if h.file != nil {
		h.file.Close()
		h.file = nil
	}
}

// mountsChanged tells whether an open mountinfo file differs from what it was when
// this was last asked, or when it was opened. Of a copy nobody knows.
func mountsChanged(file *os.File) bool {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(file.Fd()), &st); err != nil || st.Type != unix.PROC_SUPER_MAGIC {
		return true
	}
	fds := []unix.PollFd{{Fd: int32(file.Fd()), Events: unix.POLLPRI}}
	n, err := unix.Poll(fds, 0)
	return err != nil || n != 0
}

// watchMounts sends to changed, without waiting, whenever the mount table of a
// mountinfo file may have changed. It returns when ctx ends.
func watchMounts(ctx context.Context, file string, changed chan<- struct{}) error {
	table, err := openMounts(file)
	if err != nil {
		return err
	}
	defer table.Close()
	wake, waker, err := os.Pipe()
	if err != nil {
		return err
	}
	defer wake.Close()
	stop := context.AfterFunc(ctx, func() { waker.Close() })
	defer func() {
		if stop() {
			waker.Close()
		}
	}()
	// Fd makes the descriptors blocking, which poll does not mind.
	fds := []unix.PollFd{
		{Fd: int32(table.Fd()), Events: unix.POLLPRI},
		{Fd: int32(wake.Fd()), Events: unix.POLLIN},
	}
	for ctx.Err() == nil {
		if _, err := unix.Poll(fds, -1); err != nil && err != unix.EINTR {
			return err
		}
		if fds[0].Revents != 0 {
			select {
			case changed <- struct{}{}:
			default:
			}
			// Mounts come in bursts.
			time.Sleep(time.Millisecond)
		}
	}
	return nil
}
