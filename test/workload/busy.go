//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/test/workload/proto"
)

// load is what a busy process does its steps with.
type load struct {
	path         string
	chunk, limit int64
	buf          []byte // of chunk bytes
	res          *proto.Result
	close        func()
}

// A step is done again and again; i counts.
type step func(i int) error

// busyKinds prepare what is to be done.
var busyKinds = map[string]func(l *load) (step, error){
	"append":  (*load).append,
	"rewrite": (*load).rewrite,
	"updown":  (*load).upDown,
	"grow":    (*load).grow,
	"cut":     (*load).cut,
	"churn":   (*load).churn,
	"renames": (*load).renames,
	"mmap":    (*load).mmap,
}

// busyOp does one thing without a pause until a line or the end of standard
// input, or for for=.
func busyOp(a *opArgs, res *proto.Result) error {
	l := &load{path: a.path("path"), chunk: a.number("chunk", 1000), limit: a.number("limit", 8<<20), res: res, close: func() {}}
	l.buf = pattern(l.chunk)
	kind := a.text("kind", "append")
	prepare, ok := busyKinds[kind]
	if !ok {
		return fmt.Errorf("unknown kind %q", kind)
	}
	stop := make(chan struct{})
	if d := a.duration("for"); d > 0 {
		time.AfterFunc(d, func() { close(stop) })
	} else {
		go func() {
			_, _ = stdin.ReadBytes('\n')
			close(stop)
		}()
	}
	do, err := prepare(l)
	if err != nil {
		return err
	}
	defer l.close()
	if _, err := os.Stdout.Write(proto.Line{Result: &proto.Result{Op: "busy", Path: []byte(l.path)}}.Encode()); err != nil {
		return err
	}
	for i := 0; ; i++ {
		select {
		case <-stop:
			res.Detail = fmt.Sprintf("%d steps", i)
			return nil
		default:
		}
		if err := do(i); err != nil {
			return err
		}
	}
}

// open opens the file of the load.
func (l *load) open(flags int) (fd int, err error) {
	f, err := open(l.path, unix.O_RDWR|unix.O_CREAT|flags, 0o644)
	if err != nil {
		return -1, err
	}
	l.close = func() { f.Close() }
	return int(f.Fd()), nil
}

// count notes what a write returned.
func (l *load) count(n int, err error) error {
	l.res.Written += int64(max(n, 0))
	l.res.Writes++
	return err
}

// append is a log that is emptied when it has grown large.
func (l *load) append() (step, error) {
	fd, err := l.open(0)
	size := int64(0)
	return func(int) error {
		if size+l.chunk > l.limit {
			size = 0
			return errors.Join(unix.Ftruncate(fd, 0), seekStart(fd))
		}
		size += l.chunk
		return l.count(unix.Write(fd, l.buf))
	}, err
}

func seekStart(fd int) error {
	_, err := unix.Seek(fd, 0, io.SeekStart)
	return err
}

func (l *load) rewrite() (step, error) {
	fd, err := l.open(0)
	return func(i int) error { return l.count(unix.Pwrite(fd, l.buf, int64(i%16)*l.chunk)) }, err
}

func (l *load) upDown() (step, error) {
	fd, err := l.open(0)
	size := int64(0)
	return func(i int) error {
		if i%3 == 2 {
			size /= 2
			return unix.Ftruncate(fd, size)
		}
		err := l.count(unix.Pwrite(fd, l.buf, size))
		size += l.chunk
		return err
	}, err
}

// grow appends to a file that others append to, or cut off, as well.
func (l *load) grow() (step, error) {
	fd, err := l.open(unix.O_APPEND)
	return func(int) error {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil || st.Size > l.limit {
			return err
		}
		return l.count(unix.Write(fd, l.buf))
	}, err
}

// cut sets the size of such a file to something below the limit.
func (l *load) cut() (step, error) {
	fd, err := l.open(0)
	return func(i int) error { return unix.Ftruncate(fd, int64(i)*7919%l.limit) }, err
}

// churn makes temporary files: filled, renamed over one another, removed.
func (l *load) churn() (step, error) {
	return func(i int) error {
		name, to := fmt.Sprintf("%s/t%d", l.path, i%50), fmt.Sprintf("%s/r%d", l.path, i%7)
		f, err := open(name, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC, 0o600)
		if err != nil {
			return err
		}
		err = l.count(unix.Write(int(f.Fd()), l.buf[:1+i%len(l.buf)]))
		f.Close()
		if err != nil {
			return err
		}
		switch i % 4 {
		case 0:
			return unix.Unlink(name)
		case 1:
			return unix.Rename(name, to)
		}
		return nil
	}, os.MkdirAll(l.path, 0o755)
}

// renames moves about what is in the directories of a directory: plain renames,
// which replace files, and exchanges. Others may do the same there, so that names
// may be gone, or have been taken.
func (l *load) renames() (step, error) {
	return func(i int) error {
		names, err := filepath.Glob(l.path + "/*/*")
		if err != nil || len(names) == 0 {
			return err
		}
		from, flags := names[i*7%len(names)], uint(0)
		to := fmt.Sprintf("%s/n%d", filepath.Dir(names[i*5%len(names)]), i%10)
		switch i % 4 {
		case 0: // a directory with all that is in it
			from, to = filepath.Dir(from), fmt.Sprintf("%s/d%d", l.path, i%10)
		case 1:
			to, flags = names[i*3%len(names)], unix.RENAME_EXCHANGE
		case 2:
			flags = unix.RENAME_NOREPLACE
		}
		err = unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, flags)
		if err == nil && i%4 == 3 {
			// In place of the file that was replaced.
			err = l.writeFile(from)
		}
		for _, usual := range []error{unix.ENOENT, unix.EEXIST, unix.ENOTEMPTY, unix.ENOTDIR} {
			if errors.Is(err, usual) {
				return nil
			}
		}
		return err
	}, nil
}

// writeFile fills a file with the whole buffer.
func (l *load) writeFile(path string) error {
	f, err := open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	return l.count(unix.Write(int(f.Fd()), l.buf))
}

func (l *load) mmap() (step, error) {
	fd, err := l.open(0)
	return func(i int) error {
		if i%64 == 0 {
			if err := errors.Join(unix.Ftruncate(fd, 0), unix.Ftruncate(fd, 64*4096)); err != nil {
				return err
			}
		}
		mem, err := unix.Mmap(fd, int64(i%64)*4096, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			return err
		}
		mem[0] = 'm'
		return unix.Munmap(mem)
	}, err
}

// blinkOp makes count= files of size= bytes, one after the other, and removes each
// at once.
func blinkOp(a *opArgs, res *proto.Result) error {
	path, size := a.path("path"), a.number("size", 0)
	for i := range a.number("count", 1) {
		name := fmt.Sprintf("%s%d", path, i)
		f, err := open(name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o644)
		if err != nil {
			return err
		}
		err = writeAll(res, size, 64<<10, 0, func(p []byte, _ int64) (int, error) { return unix.Write(int(f.Fd()), p) })
		if err := errors.Join(err, f.Close(), unix.Unlink(name)); err != nil {
			return err
		}
	}
	return nil
}
