package model

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

func createOp(w *worker, o *op) error {
	return w.opened(o.Path, writeOnly|unix.O_EXCL, func(int) error { return nil })
}

// openOp opens for writing, which alone copies up, and writes nothing.
func openOp(w *worker, o *op) error {
	flags := unix.O_RDWR
	if o.Choice == "trunc" {
		flags |= unix.O_TRUNC
	}
	return w.opened(o.Path, flags, func(int) error { return nil })
}

func mkdirOp(w *worker, o *op) error { return unix.Mkdir(w.path(o.Path), 0o755) }

func mknodOp(w *worker, o *op) error {
	switch o.Choice {
	case "fifo":
		return unix.Mkfifo(w.path(o.Path), 0o644)
	case "device":
		return unix.Mknod(w.path(o.Path), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3)))
	}
	// What overlayfs itself uses to hide the image's files, and refuses to others.
	return unix.Mknod(w.path(o.Path), unix.S_IFCHR, 0)
}

// symlinkOp makes a symlink to a name of so many bytes beside it. Long ones take
// a block.
func symlinkOp(w *worker, o *op) error {
	return unix.Symlink(strings.Repeat("x", int(o.Size)), w.path(o.Path))
}

func linkOp(w *worker, o *op) error { return unix.Link(w.path(o.Path), w.path(o.To)) }

var renameFlags = map[string]uint{
	"plain":     0,
	"noreplace": unix.RENAME_NOREPLACE,
	"exchange":  unix.RENAME_EXCHANGE,
	"whiteout":  unix.RENAME_WHITEOUT,
}

func renameOp(w *worker, o *op) error {
	flags := renameFlags[o.Choice]
	return unix.Renameat2(unix.AT_FDCWD, w.path(o.Path), unix.AT_FDCWD, w.path(o.To), flags)
}

func unlinkOp(w *worker, o *op) error { return unix.Unlink(w.path(o.Path)) }

func rmdirOp(w *worker, o *op) error { return unix.Rmdir(w.path(o.Path)) }

// rmtreeOp removes a directory and all that is below it.
func rmtreeOp(w *worker, o *op) error { return os.RemoveAll(w.path(o.Path)) }

// crowdOp makes so many files with so long names in a directory that it needs
// another block for them.
func crowdOp(w *worker, o *op) error {
	for i := range min(o.Size/100, 25) {
		name := fmt.Sprintf("%s/crowd-%s-%d", w.path(o.Path), strings.Repeat("n", 230), i)
		fd, err := unix.Open(name, unix.O_WRONLY|unix.O_CREAT|unix.O_CLOEXEC, 0o644)
		if err != nil {
			return err
		}
		unix.Close(fd)
	}
	return nil
}

func disperseOp(w *worker, o *op) error {
	names, err := filepath.Glob(w.path(o.Path) + "/crowd-*")
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		errs = append(errs, unix.Unlink(name))
	}
	return errors.Join(errs...)
}

func setxattrOp(w *worker, o *op) error {
	return unix.Lsetxattr(w.path(o.Path), o.Choice, w.data[:o.Size], 0)
}

func removexattrOp(w *worker, o *op) error {
	return unix.Lremovexattr(w.path(o.Path), o.Choice)
}

// setACLOp sets an access control list. Longer ones take a block.
func setACLOp(w *worker, o *op) error {
	type entry struct {
		Tag, Permissions uint16
		ID               uint32
	}
	const user, group, namedUser, mask, other, nobody = 1, 4, 2, 0x10, 0x20, ^uint32(0)
	list := []entry{{user, 7, nobody}}
	for id := range uint32(min(o.Size, 3000) / 10) {
		list = append(list, entry{namedUser, 5, 1000 + id})
	}
	list = append(list, entry{group, 5, nobody}, entry{mask, 5, nobody}, entry{other, 5, nobody})
	var value bytes.Buffer
	const version = 2
	if err := errors.Join(binary.Write(&value, binary.LittleEndian, uint32(version)), binary.Write(&value, binary.LittleEndian, list)); err != nil {
		return fmt.Errorf("encoding an access control list: %w", err)
	}
	name := "system.posix_acl_" + o.Choice
	return unix.Setxattr(w.path(o.Path), name, value.Bytes(), 0)
}

// What follows changes nothing in the layer but copies up.

func chmodOp(w *worker, o *op) error { return unix.Chmod(w.path(o.Path), 0o755) }

func chownOp(w *worker, o *op) error { return unix.Lchown(w.path(o.Path), 7, 7) }

func utimesOp(w *worker, o *op) error {
	when := unix.Timespec{Sec: 1_000_000_000}
	return unix.UtimesNanoAt(unix.AT_FDCWD, w.path(o.Path), []unix.Timespec{when, when}, unix.AT_SYMLINK_NOFOLLOW)
}
