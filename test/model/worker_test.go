package model

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	workers = 3 // processes
	slots   = 2 // files that each of them holds open
	// firstHeld is the number of the descriptor of slot 0, so that others can find
	// held files by their process's number.
	firstHeld = 100
	// roleVariable in the environment makes the test program a worker.
	roleVariable = "LAYERTRACE_MODEL_ROLE"
)

func workerName(i int) string { return "model-" + string(rune('a'+i)) }

// request is what a worker is asked to do, in this order.
type request struct {
	Root    string       `json:",omitempty"` // of the overlay
	Peers   [workers]int // the workers' processes
	Await   bool         `json:",omitempty"` // answer and wait for another request first
	Ops     []op         `json:",omitempty"`
	Report  bool         `json:",omitempty"`
	Release bool         `json:",omitempty"`
}

// answer is what a worker says when it is done.
type answer struct {
	Results []result `json:",omitempty"`
	Held    []held   `json:",omitempty"`
}

// held is a file that a worker holds and that has no name any more.
type held struct {
	Inode     uint64 // as the overlay shows it
	Disk      int64
	Directory bool
}

// worker is the state of a worker process.
type worker struct {
	root  string
	peers [workers]int
	slots [slots]*slot
	// Of the operation at work, as in result.
	by, parent       uint32
	written, perhaps int64
	data, aligned    []byte
	shared           []byte // with children
}

// slot is a file that is held open, by a descriptor or by a mapping.
type slot struct {
	fd     int // of a mapping: opened with O_PATH, which is no use of the file but names it
	append bool
	memory []byte
}

// work is the life of a worker process: requests come on its standard input,
// answers go to its standard output.
func work() error {
	// A store to a mapping beyond the end of its file must not be the end of us.
	debug.SetPanicOnFault(true)
	runtime.LockOSThread()
	// Its default is the end of the process; nor is that of a child to leave anything.
	signal.Ignore(unix.SIGXFSZ)
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbidding core dumps: %w", err)
	}
	w := worker{data: pattern(256 << 10)}
	var err error
	if w.shared, err = unix.Mmap(-1, 0, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS); err != nil {
		return fmt.Errorf("allocating memory to share: %w", err)
	}
	if w.aligned, err = unix.Mmap(-1, 0, 256<<10, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS); err != nil {
		return fmt.Errorf("allocating a buffer: %w", err)
	}
	copy(w.aligned, w.data)
	requests, answers := json.NewDecoder(bufio.NewReader(os.Stdin)), json.NewEncoder(os.Stdout)
	for {
		var r request
		if err := requests.Decode(&r); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("reading a request: %w", err)
		}
		if r.Await {
			var start request
			if err := answers.Encode(answer{}); err != nil {
				return err
			}
			if err := requests.Decode(&start); err != nil {
				return fmt.Errorf("waiting for the start: %w", err)
			}
		}
		if err := answers.Encode(w.serve(&r)); err != nil {
			return fmt.Errorf("writing an answer: %w", err)
		}
	}
}

// pattern is bytes that are not zero, so that nothing takes them for a hole.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte('a' + i%25)
	}
	return b
}

func (w *worker) serve(r *request) (a answer) {
	w.root, w.peers = r.Root, r.Peers
	for i := range r.Ops {
		a.Results = append(a.Results, w.do(&r.Ops[i]))
	}
	if r.Report {
		a.Held = w.report()
	}
	if r.Release {
		for i := range w.slots {
			w.release(i)
		}
	}
	return a
}

func (w *worker) do(o *op) (r result) {
	w.by, w.parent, w.written, w.perhaps = uint32(os.Getpid()), 0, 0, 0
	if err := kindNamed[o.Kind].run(w, o); err != nil {
		var errno unix.Errno
		switch {
		case errors.Is(err, errFault):
			r.Errno = "SIGBUS"
		case errors.As(err, &errno):
			r.Errno = unix.ErrnoName(errno)
		default:
			r.Wrong = err.Error()
		}
	}
	r.By, r.Parent, r.Written, r.Perhaps = w.by, w.parent, w.written, w.perhaps
	return r
}

// path is where a path of the overlay is found.
func (w *worker) path(relative string) string { return w.root + "/" + relative }

// report tells of the held files that have no name any more.
func (w *worker) report() (all []held) {
	for _, s := range w.slots {
		var st unix.Stat_t
		if s == nil || unix.Fstat(s.fd, &st) != nil {
			continue
		}
		directory := st.Mode&unix.S_IFMT == unix.S_IFDIR
		gone := st.Nlink == 0
		if directory {
			// Overlayfs says 1 of those that are merged, removed or not.
			path, _ := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", s.fd))
			gone = strings.HasSuffix(path, " (deleted)")
		}
		if gone {
			all = append(all, held{st.Ino, st.Blocks * 512, directory})
		}
	}
	return all
}

// keep puts an open file into a slot and lets go of what was there.
func (w *worker) keep(number int, s slot) error {
	w.release(number)
	fd := firstHeld + number
	if err := unix.Dup3(s.fd, fd, unix.O_CLOEXEC); err != nil {
		return err
	}
	unix.Close(s.fd)
	s.fd = fd
	w.slots[number] = &s
	return nil
}

func (w *worker) release(number int) {
	s := w.slots[number]
	if s == nil {
		return
	}
	w.slots[number] = nil
	unix.Close(s.fd)
	if s.memory != nil {
		_ = unix.Munmap(s.memory)
	}
}

// held is the file in the slot of an operation.
func (w *worker) held(o *op) (*slot, error) {
	if s := w.slots[o.Slot]; s != nil {
		return s, nil
	}
	return nil, unix.EBADF
}

// open opens a regular file. Others are refused: they would block, or take what
// is written elsewhere.
func (w *worker) open(path string, flags int) (int, error) {
	return openRegular(w.path(path), flags)
}

func openRegular(path string, flags int) (int, error) {
	fd, err := unix.Open(path, flags|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return -1, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		unix.Close(fd)
		return -1, errors.Join(err, unix.EINVAL)
	}
	return fd, nil
}

// opened runs fn on a regular file.
func (w *worker) opened(path string, flags int, fn func(fd int) error) error {
	fd, err := w.open(path, flags)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return fn(fd)
}

// wrote counts what a write-like call returned.
func (w *worker) wrote(n int, err error) error {
	if n > 0 {
		w.written += int64(n)
	}
	return err
}
