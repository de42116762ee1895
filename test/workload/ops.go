//go:build linux

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/test/workload/proto"
)

type opFunc func(a *opArgs, res *proto.Result) error

var ops = map[string]opFunc{
	"write":        writeOp(0),
	"append":       writeOp(unix.O_APPEND),
	"overwrite":    writeOp(unix.O_TRUNC),
	"pwrite":       pwriteOp,
	"writev":       writevOp,
	"rewrite":      rewriteOp,
	"truncate":     truncateOp,
	"ftruncate":    ftruncateOp,
	"fallocate":    fallocateOp,
	"copyrange":    copyRangeOp,
	"clone":        cloneOp,
	"sendfile":     sendfileOp,
	"splice":       spliceOp,
	"mmap":         mmapOp,
	"create":       createOp,
	"mkdir":        mkdirOp,
	"rmdir":        rmdirOp,
	"removeall":    removeAllOp,
	"symlink":      symlinkOp,
	"link":         linkOp,
	"rename":       renameOp,
	"unlink":       unlinkOp,
	"tmpfile":      tmpfileOp,
	"fifo":         fifoOp,
	"socket":       socketOp,
	"aio":          aioOp,
	"uring":        uringOp,
	"setxattr":     setxattrOp,
	"removexattr":  removexattrOp,
	"open":         openOp,
	"chmod":        chmodOp,
	"chown":        chownOp,
	"utimes":       utimesOp,
	"keep":         keepOp,
	"release":      releaseOp,
	"keptwrite":    keptWriteOp,
	"keptallocate": keptAllocateOp,
	"wait":         waitOp,
	"sleep":        sleepOp,
	"signal":       signalOp,
	"start":        startOp,
	"await":        awaitOp,
	"fill":         fillOp,
	"busy":         busyOp,
	"deepdirs":     deepDirsOp,
}

// kept holds the files that "keep" left open, by the path they were opened by.
var kept = map[string]*os.File{}

var stdin = bufio.NewReader(os.Stdin)

// pattern fills a buffer with bytes that are not zero, so that nothing between
// here and the disk can take them for a hole.
func pattern(n int64) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte('a' + i%25)
		if i%80 == 79 {
			b[i] = '\n'
		}
	}
	return b
}

// pace waits between writes where every= says so.
func pace(every time.Duration) {
	if every > 0 {
		time.Sleep(every)
	}
}

func open(path string, flags int, mode uint32) (*os.File, error) {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, mode)
	if err != nil {
		return nil, fmt.Errorf("opening %q: %w", path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

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

func writeOp(extra int) opFunc {
	return func(a *opArgs, res *proto.Result) error {
		path, size := a.path("path"), a.number("size", 0)
		chunk, every := a.number("chunk", 64<<10), a.duration("every")
		f, err := open(path, unix.O_WRONLY|unix.O_CREAT|extra, uint32(a.number("mode", 0o644)))
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
			return unix.Pwritev(int(f.Fd()), iovs, off)
		case "pwritev2":
			return unix.Pwritev2(int(f.Fd()), iovs, off, 0)
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

var fallocateModes = map[string]uint32{
	"":         0,
	"keep":     unix.FALLOC_FL_KEEP_SIZE,
	"punch":    unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE,
	"zero":     unix.FALLOC_FL_ZERO_RANGE,
	"collapse": unix.FALLOC_FL_COLLAPSE_RANGE,
	"insert":   unix.FALLOC_FL_INSERT_RANGE,
}

func fallocateOp(a *opArgs, _ *proto.Result) error {
	name := a.text("kind", "")
	mode, ok := fallocateModes[name]
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

// transfer opens from= and path= for the calls that move data from file to file.
func transfer(a *opArgs) (from, to *os.File, size int64, err error) {
	if from, err = open(a.path("from"), unix.O_RDONLY, 0); err != nil {
		return nil, nil, 0, err
	}
	if to, err = open(a.path("path"), unix.O_WRONLY|unix.O_CREAT, 0o644); err != nil {
		from.Close()
		return nil, nil, 0, err
	}
	st, err := from.Stat()
	if err != nil {
		from.Close()
		to.Close()
		return nil, nil, 0, err
	}
	return from, to, a.number("size", st.Size()), nil
}

func moveAll(a *opArgs, res *proto.Result, fn func(from, to int, left int) (int, error)) error {
	from, to, size, err := transfer(a)
	if err != nil {
		return err
	}
	defer from.Close()
	defer to.Close()
	for left := size; left > 0; {
		n, err := fn(int(from.Fd()), int(to.Fd()), int(left))
		if err != nil {
			return err
		}
		if n == 0 {
			return fmt.Errorf("the source ended %d bytes early", left)
		}
		left -= int64(n)
		res.Written += int64(n)
		res.Writes++
	}
	return nil
}

func copyRangeOp(a *opArgs, res *proto.Result) error {
	return moveAll(a, res, func(from, to, left int) (int, error) {
		return unix.CopyFileRange(from, nil, to, nil, left, 0)
	})
}

func sendfileOp(a *opArgs, res *proto.Result) error {
	return moveAll(a, res, func(from, to, left int) (int, error) {
		return unix.Sendfile(to, from, nil, left)
	})
}

func spliceOp(a *opArgs, res *proto.Result) error {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return err
	}
	defer unix.Close(pipe[0])
	defer unix.Close(pipe[1])
	return moveAll(a, res, func(from, to, left int) (int, error) {
		in, err := unix.Splice(from, nil, pipe[1], nil, min(left, 64<<10), 0)
		if err != nil {
			return 0, err
		}
		done := int64(0)
		for done < in {
			n, err := unix.Splice(pipe[0], nil, to, nil, int(in-done), 0)
			if err != nil {
				return 0, err
			}
			done += n
		}
		return int(done), nil
	})
}

func cloneOp(a *opArgs, _ *proto.Result) error {
	from, to, _, err := transfer(a)
	if err != nil {
		return err
	}
	defer from.Close()
	defer to.Close()
	return unix.IoctlFileClone(int(to.Fd()), int(from.Fd()))
}

// mmapOp stores one byte into each page of an existing file's [offset, offset+size).
func mmapOp(a *opArgs, _ *proto.Result) error {
	f, err := open(a.path("path"), unix.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	size, offset := a.number("size", 4096), a.number("offset", 0)
	mem, err := unix.Mmap(int(f.Fd()), offset, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	for i := 0; i < len(mem); i += os.Getpagesize() {
		mem[i] = 'm'
	}
	if a.text("sync", "") != "" {
		if err := unix.Msync(mem, unix.MS_SYNC); err != nil {
			return err
		}
	}
	return unix.Munmap(mem)
}

func createOp(a *opArgs, _ *proto.Result) error {
	f, err := open(a.path("path"), unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	return f.Close()
}

func mkdirOp(a *opArgs, _ *proto.Result) error {
	path := a.path("path")
	if a.text("parents", "") != "" {
		return os.MkdirAll(path, 0o755)
	}
	return unix.Mkdir(path, 0o755)
}

func rmdirOp(a *opArgs, _ *proto.Result) error { return unix.Rmdir(a.path("path")) }

func removeAllOp(a *opArgs, _ *proto.Result) error { return os.RemoveAll(a.path("path")) }

func symlinkOp(a *opArgs, _ *proto.Result) error {
	return unix.Symlink(a.path("target"), a.path("path"))
}

func linkOp(a *opArgs, _ *proto.Result) error { return unix.Link(a.path("from"), a.path("path")) }

func renameOp(a *opArgs, _ *proto.Result) error {
	kinds := map[string]uint{"": 0, "noreplace": unix.RENAME_NOREPLACE, "exchange": unix.RENAME_EXCHANGE, "whiteout": unix.RENAME_WHITEOUT}
	kind := a.text("kind", "")
	flags, ok := kinds[kind]
	if !ok {
		return fmt.Errorf("unknown kind %q", kind)
	}
	return unix.Renameat2(unix.AT_FDCWD, a.path("from"), unix.AT_FDCWD, a.path("path"), flags)
}

func unlinkOp(a *opArgs, _ *proto.Result) error { return unix.Unlink(a.path("path")) }

// tmpfileOp makes a nameless file, fills it and, unless path= is missing, gives
// it that name.
func tmpfileOp(a *opArgs, res *proto.Result) error {
	dir, path, size := a.path("dir"), a.text("path", ""), a.number("size", 0)
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return fmt.Errorf("opening a nameless file in %q: %w", dir, err)
	}
	defer unix.Close(fd)
	if err := writeAll(res, size, size, 0, func(p []byte, _ int64) (int, error) { return unix.Write(fd, p) }); err != nil {
		return err
	}
	if path == "" {
		return nil
	}
	return unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, path, unix.AT_SYMLINK_FOLLOW)
}

func fifoOp(a *opArgs, _ *proto.Result) error { return unix.Mkfifo(a.path("path"), 0o644) }

func socketOp(a *opArgs, _ *proto.Result) error {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: a.path("path"), Net: "unix"})
	if err != nil {
		return err
	}
	l.SetUnlinkOnClose(false)
	return l.Close()
}

func setxattrOp(a *opArgs, _ *proto.Result) error {
	return unix.Setxattr(a.path("path"), a.text("name", "user.big"), pattern(a.number("size", 0)), 0)
}

func removexattrOp(a *opArgs, _ *proto.Result) error {
	return unix.Removexattr(a.path("path"), a.text("name", "user.big"))
}

// openOp opens for writing and closes again, without a write.
func openOp(a *opArgs, _ *proto.Result) error {
	f, err := open(a.path("path"), unix.O_RDWR, 0)
	if err != nil {
		return err
	}
	return f.Close()
}

// walk applies fn to path, or with recurse= to everything below it as well,
// contents before their directory, as chown -R does not but may.
func walk(a *opArgs, fn func(path string) error) error {
	path := a.path("path")
	if a.text("recurse", "") == "" {
		return fn(path)
	}
	return filepath.WalkDir(path, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return fn(p)
	})
}

func chmodOp(a *opArgs, _ *proto.Result) error {
	mode := uint32(a.number("mode", 0o600))
	return walk(a, func(p string) error { return unix.Chmod(p, mode) })
}

func chownOp(a *opArgs, _ *proto.Result) error {
	uid, gid := int(a.number("uid", 7)), int(a.number("gid", 7))
	return walk(a, func(p string) error { return unix.Lchown(p, uid, gid) })
}

func utimesOp(a *opArgs, _ *proto.Result) error {
	when := time.Unix(a.number("unix", 1_000_000_000), 0)
	return walk(a, func(p string) error { return os.Chtimes(p, when, when) })
}

func keepOp(a *opArgs, _ *proto.Result) error {
	path := a.path("path")
	f, err := open(path, unix.O_RDWR|unix.O_CREAT, 0o644)
	if err != nil {
		return err
	}
	kept[path] = f
	return nil
}

func keptFile(a *opArgs) (*os.File, error) {
	path := a.path("path")
	f := kept[path]
	if f == nil {
		return nil, fmt.Errorf("%q is not kept open", path)
	}
	return f, nil
}

func releaseOp(a *opArgs, _ *proto.Result) error {
	f, err := keptFile(a)
	if err != nil {
		return err
	}
	delete(kept, f.Name())
	return f.Close()
}

func keptWriteOp(a *opArgs, res *proto.Result) error {
	f, err := keptFile(a)
	if err != nil {
		return err
	}
	every := a.duration("every")
	return writeAll(res, a.number("size", 0), a.number("chunk", 64<<10), every, func(p []byte, _ int64) (int, error) {
		return unix.Write(int(f.Fd()), p)
	})
}

func keptAllocateOp(a *opArgs, _ *proto.Result) error {
	f, err := keptFile(a)
	if err != nil {
		return err
	}
	return unix.Fallocate(int(f.Fd()), 0, 0, a.number("size", 0))
}

// waitOp says that everything before it is done, then waits for a line on
// standard input, or its end.
func waitOp(_ *opArgs, _ *proto.Result) error {
	if _, err := os.Stdout.Write(proto.Line{Result: &proto.Result{Op: "waiting"}}.Encode()); err != nil {
		return err
	}
	if _, err := stdin.ReadBytes('\n'); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// signalOp waits for SIGUSR1. That signal is held back from before main begins,
// so it may also come early.
func signalOp(_ *opArgs, _ *proto.Result) error {
	if _, err := os.Stdout.Write(proto.Line{Result: &proto.Result{Op: "waiting"}}.Encode()); err != nil {
		return err
	}
	<-usr1
	return nil
}

var usr1 = func() chan os.Signal {
	c := make(chan os.Signal, 1)
	signal.Notify(c, unix.SIGUSR1)
	return c
}()

var children []*exec.Cmd

// startOp starts exe= with the arguments args=, words separated by commas, and
// goes on. A process has the name of its executable, links not resolved.
func startOp(a *opArgs, _ *proto.Result) error {
	cmd := exec.Command(a.path("exe"), strings.Split(a.text("args", ""), ",")...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	children = append(children, cmd)
	return cmd.Start()
}

// awaitOp waits for everything that was started.
func awaitOp(_ *opArgs, _ *proto.Result) error {
	var errs []error
	for _, c := range children {
		if err := c.Wait(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", c.Path, err))
		}
	}
	children = nil
	return errors.Join(errs...)
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

func sleepOp(a *opArgs, _ *proto.Result) error {
	time.Sleep(a.duration("for"))
	return nil
}

// busyOp does one thing without a pause until a line or the end of standard
// input, or for for=.
func busyOp(a *opArgs, res *proto.Result) error {
	path, kind, chunk, limit := a.path("path"), a.text("kind", "append"), a.number("chunk", 1000), a.number("limit", 8<<20)
	stop := make(chan struct{})
	if d := a.duration("for"); d > 0 {
		time.AfterFunc(d, func() { close(stop) })
	} else {
		go func() {
			_, _ = stdin.ReadBytes('\n')
			close(stop)
		}()
	}
	if _, err := os.Stdout.Write(proto.Line{Result: &proto.Result{Op: "busy", Path: []byte(path)}}.Encode()); err != nil {
		return err
	}
	buf := pattern(chunk)
	count := func(n int, err error) error {
		res.Written += int64(n)
		res.Writes++
		return err
	}
	var step func(i int) error
	switch kind {
	case "append", "rewrite", "updown":
		f, err := open(path, unix.O_RDWR|unix.O_CREAT, 0o644)
		if err != nil {
			return err
		}
		defer f.Close()
		fd, size := int(f.Fd()), int64(0)
		step = func(i int) error {
			switch {
			case kind == "rewrite":
				return count(unix.Pwrite(fd, buf, int64(i%16)*chunk))
			case size+chunk > limit && kind == "append":
				// A log that is emptied when it has grown large.
				size = 0
				return errors.Join(unix.Ftruncate(fd, 0), seekStart(fd))
			case kind == "updown" && i%3 == 2:
				size /= 2
				return unix.Ftruncate(fd, size)
			case kind == "updown":
				err := count(unix.Pwrite(fd, buf, size))
				size += chunk
				return err
			}
			size += chunk
			return count(unix.Write(fd, buf))
		}
	case "churn":
		// Temporary files: made, filled, renamed over one another, removed.
		if err := os.MkdirAll(path, 0o755); err != nil {
			return err
		}
		step = func(i int) error {
			name, to := fmt.Sprintf("%s/t%d", path, i%50), fmt.Sprintf("%s/r%d", path, i%7)
			f, err := open(name, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC, 0o600)
			if err != nil {
				return err
			}
			err = count(unix.Write(int(f.Fd()), buf[:1+i%len(buf)]))
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
		}
	case "mmap":
		f, err := open(path, unix.O_RDWR|unix.O_CREAT, 0o644)
		if err != nil {
			return err
		}
		defer f.Close()
		step = func(i int) error {
			if i%64 == 0 {
				if err := errors.Join(unix.Ftruncate(int(f.Fd()), 0), unix.Ftruncate(int(f.Fd()), 64*4096)); err != nil {
					return err
				}
			}
			mem, err := unix.Mmap(int(f.Fd()), int64(i%64)*4096, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			if err != nil {
				return err
			}
			mem[0] = 'm'
			return unix.Munmap(mem)
		}
	default:
		return fmt.Errorf("unknown kind %q", kind)
	}
	for i := 0; ; i++ {
		select {
		case <-stop:
			res.Detail = fmt.Sprintf("%d steps", i)
			return nil
		default:
		}
		if err := step(i); err != nil {
			return err
		}
	}
}

func seekStart(fd int) error {
	_, err := unix.Seek(fd, 0, io.SeekStart)
	return err
}

// deepDirsOp makes depth directories inside one another, each called name, and
// a file of size bytes in the deepest. It goes by chdir, so that the whole path
// may exceed what one system call takes.
func deepDirsOp(a *opArgs, res *proto.Result) error {
	path, name, depth, size := a.path("path"), a.text("name", "d"), a.number("depth", 1), a.number("size", 0)
	// The working directory belongs to the thread's fs_struct, which all
	// threads of a Go process share; keep to one thread all the same.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Chdir(path); err != nil {
		return err
	}
	for range depth {
		if err := unix.Mkdir(name, 0o755); err != nil {
			return err
		}
		if err := unix.Chdir(name); err != nil {
			return err
		}
	}
	f, err := open("deepest", unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := writeAll(res, size, size, 0, func(p []byte, _ int64) (int, error) { return unix.Write(int(f.Fd()), p) }); err != nil {
		return err
	}
	return unix.Chdir("/")
}
