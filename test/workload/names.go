//go:build linux

package main

import (
	"fmt"
	"net"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/test/workload/proto"
)

func createOp(a *opArgs, _ *proto.Result) error {
	f, err := open(a.path("path"), unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	return f.Close()
}

func mkdirOp(a *opArgs, _ *proto.Result) error {
	path := a.path("path")
	if a.given("parents") {
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

// mknodOp makes a device, a character device unless kind=block.
func mknodOp(a *opArgs, _ *proto.Result) error {
	mode := uint32(unix.S_IFCHR)
	if a.text("kind", "char") == "block" {
		mode = unix.S_IFBLK
	}
	return unix.Mknod(a.path("path"), mode|0o600, int(unix.Mkdev(uint32(a.number("major", 0)), uint32(a.number("minor", 0)))))
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
