// Package layer reads the truth on disk: what a layer's directory holds, and how
// large that is by the two rules in use.
package layer

import (
	"errors"
	"fmt"
	"io/fs"
	"time"

	"golang.org/x/sys/unix"
)

// SkipDir, returned by Visitor.Visit for a directory, leaves out its entries.
var SkipDir = fs.SkipDir

// Visitor sees every name of a tree. An error other than SkipDir ends the walk
// and is returned by Walk as it is.
type Visitor interface {
	// Visit is called with the result of lstat. e is valid until Visit returns.
	// It is called once more for a name that another directory took over before
	// its entries could be read.
	Visit(e *Entry) error
}

// Enterer is a Visitor that has something to do with an inode before it is looked
// at. The inode is held until Visit returns, so that nobody else gets its number.
type Enterer interface {
	Visitor
	// Enter is called before lstat, and for a directory before its entries are
	// read. parent is the inode number of its directory, mode the type bits
	// (unix.S_IFMT). The root has parent 0 and an empty name.
	//
	// If the name stands for another inode by the time of lstat, Enter is called
	// again, with that one.
	Enter(parent uint64, name string, inode uint64, mode uint32) error
	// Nameless is called instead of Visit if the inode has no name at all by then.
	Nameless() error
}

// Entry is a name in a tree and its inode. Sizes are bytes.
type Entry struct {
	Path      string // relative to the root, raw bytes; "." for the root itself
	Name      string // last component, raw bytes; empty for the root
	Parent    uint64 // inode number of the directory; 0 for the root
	Inode     uint64
	Dev       uint64 // st_dev, in user space's encoding
	Mode      uint32 // st_mode, type bits included
	Nlink     uint64
	Size      int64     // st_size
	Allocated int64     // st_blocks*512
	Changed   time.Time // st_ctim
	Whiteout  bool      // stands for a deleted entry of the image: a character device 0:0
	// CopiedUp tells that overlayfs copied it from the image: it has an origin
	// attribute, which needs CAP_SYS_ADMIN to be seen. Overlayfs sets none for
	// files of the image that had several hard links, unless its index is on.
	CopiedUp bool
	Opaque   bool // a directory that hides the image's directory of this name

	dirFD int // directory that holds Name; the root's own descriptor if Name is empty
	held  int // the inode, with O_PATH; -1 if it is not held
}

// Dir reports whether the entry is a directory.
func (e *Entry) Dir() bool { return e.Mode&unix.S_IFMT == unix.S_IFDIR }

// Restat looks at the entry again, without changing it. It fails with an error
// that matches fs.ErrNotExist if the name is gone or stands for another inode
// now. It must not be called after Visit has returned.
func (e *Entry) Restat() (unix.Stat_t, error) {
	st, err := statAt(e.dirFD, e.Name)
	if err == nil && (st.Ino != e.Inode || st.Dev != e.Dev) {
		err = unix.ENOENT
	}
	if err != nil {
		return unix.Stat_t{}, fmt.Errorf("looking at %q: %w", e.Path, err)
	}
	return st, nil
}

// Handle tells how to open the inode later, wherever it has been moved by then (see
// open_by_handle_at(2)); false if its file system has no such thing, or no Enterer has
// it held. It must not be called after Visit has returned.
func (e *Entry) Handle() (handle unix.FileHandle, ok bool) {
	if e.held < 0 {
		return handle, false
	}
	err := retry(func() (err error) {
		handle, _, err = unix.NameToHandleAt(e.held, "", unix.AT_EMPTY_PATH)
		return err
	})
	return handle, err == nil
}

// set takes over what lstat said.
func (e *Entry) set(st *unix.Stat_t) {
	e.Inode, e.Dev = st.Ino, st.Dev
	e.Mode, e.Nlink = st.Mode, uint64(st.Nlink)
	e.Size, e.Allocated = st.Size, st.Blocks*512
	e.Changed = time.Unix(st.Ctim.Unix())
	e.Whiteout = st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
	e.CopiedUp, e.Opaque = false, false
}

// statAt is lstat of name in a directory, or fstat of the directory itself if
// name is empty.
func statAt(dirFD int, name string) (unix.Stat_t, error) {
	var st unix.Stat_t
	err := retry(func() error {
		if name == "" {
			return unix.Fstat(dirFD, &st)
		}
		return unix.Fstatat(dirFD, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	})
	return st, err
}

// retry calls fn again while a signal interrupts it.
func retry(fn func() error) error {
	for {
		if err := fn(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
