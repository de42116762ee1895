package resolver

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// fileMost bounds what is read of a file that somebody else wrote. What runtimes keep of
// a container takes kilobytes.
const fileMost = 64 << 20

var (
	errNotRegular = errors.New("not a regular file")
	errTooLarge   = fmt.Errorf("larger than %d bytes", fileMost)
)

// readFile reads a file whose name and content are up to others, such as one in a
// user's home directory. It never waits and never reads without end: the file must be
// a regular one. Directories on the way to it may be symlinks, which is how people
// move a store to another disk, the file itself may not.
func readFile(name string) ([]byte, error) { return readRegular(name, unix.O_NOFOLLOW) }

// readRegular is readFile with further flags for open.
func readRegular(name string, flags int) ([]byte, error) {
	file, err := openFile(name, flags)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return readOpen(file)
}

func openFile(name string, flags int) (*os.File, error) {
	return os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|flags, 0)
}

func readOpen(file *os.File) ([]byte, error) {
	info, err := file.Stat()
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, &os.PathError{Op: "read", Path: file.Name(), Err: errNotRegular}
	case info.Size() > fileMost:
		return nil, &os.PathError{Op: "read", Path: file.Name(), Err: errTooLarge}
	}
	// It may grow meanwhile.
	data, err := io.ReadAll(io.LimitReader(file, fileMost+1))
	if err == nil && len(data) > fileMost {
		err = &os.PathError{Op: "read", Path: file.Name(), Err: errTooLarge}
	}
	if err != nil {
		return nil, err
	}
	return data, nil
}

// fileStamp changes whenever a file or a directory does, also by its replacement.
type fileStamp struct {
	device, inode     uint64
	size              int64
	owner             uint32
	modified, changed unix.Timespec
}

func stampFile(st *unix.Stat_t) fileStamp {
	return fileStamp{device: st.Dev, inode: st.Ino, size: st.Size, owner: st.Uid, modified: st.Mtim, changed: st.Ctim}
}

// clockTick is longer than the clock of any file system stands still: after a change
// that is as recent, another one may leave the stamp as it is.
const clockTick = 100 * time.Millisecond

// cached is what was made of a file or a directory. As long as that stays as it is,
// to get it again takes a single call of stat. What is there but can not be read leaves
// the value as it was.
type cached[T any] struct {
	value   T
	err     error // of making it anew
	stamp   fileStamp
	settled bool   // the stamp tells of each change
	told    string // of err
}

// get returns what load makes of the file, which is opened with the given flags, as it
// is now.
func (c *cached[T]) get(name string, flags int, load func(*os.File) (T, error)) (T, error) {
	var st unix.Stat_t
	err := unix.Stat(name, &st)
	if errors.Is(err, fs.ErrNotExist) {
		*c = cached[T]{}
		return c.value, err
	}
	if err == nil && c.settled && c.stamp == stampFile(&st) {
		return c.value, c.err
	}
	c.settled = false
	if err != nil {
		return c.value, err
	}
	c.stamp = stampFile(&st)
	file, err := openFile(name, flags)
	if err != nil {
		return c.value, err
	}
	defer file.Close()
	if err := unix.Fstat(int(file.Fd()), &st); err != nil {
		return c.value, err
	}
	c.stamp = stampFile(&st)
	value, err := load(file)
	if err == nil {
		c.value = value
	}
	c.err, c.settled = err, time.Since(time.Unix(c.stamp.changed.Unix())) > clockTick
	return c.value, c.err
}

// parsed is get for a file that readFile may read.
func (c *cached[T]) parsed(name string, parse func([]byte) (T, error)) (T, error) {
	return c.get(name, unix.O_NOFOLLOW, func(file *os.File) (value T, err error) {
		data, err := readOpen(file)
		if err != nil {
			return value, err
		}
		return parse(data)
	})
}

// namesIn is get for a directory.
func namesIn(c *cached[[]string], dir string) ([]string, error) {
	return c.get(dir, unix.O_DIRECTORY, func(file *os.File) ([]string, error) {
		names, err := file.Readdirnames(-1)
		slices.Sort(names)
		return names, err
	})
}
