package resolver

import (
	"errors"
	"fmt"
	"io"
	"os"

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
	file, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|flags, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return readOpen(file)
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
