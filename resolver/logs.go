package resolver

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// localLog is where, below a container's own directory, Docker's log driver local
// writes. The runtime does not tell that path, as it does json-file's.
const localLog = "local-logs/container.log"

// LogSizes is how large a container's log is: the file that is being written and
// those that were rotated away, compressed or not. Sizes are bytes.
type LogSizes struct {
	Files     int
	Size      int64 // sum of st_size
	Allocated int64 // sum of st_blocks*512
}

// LogMeter measures a container's log again and again. Most logs are quiet most
// of the time: then a measurement is two calls of stat. It is not safe for
// concurrent use.
type LogMeter struct {
	path      string
	file, dir logStamp
	settled   bool // the last full look found nothing new
	last      LogSizes
}

// logStamp changes whenever a file or a directory does.
type logStamp struct {
	exists        bool
	device, inode uint64
	size, blocks  int64
	modified      unix.Timespec
}

// NewLogMeter returns a meter of the log whose file is path, as Container.LogFile
// has it.
func NewLogMeter(path string) *LogMeter { return &LogMeter{path: path} }

// Path returns the path of the file that is being written.
func (m *LogMeter) Path() string { return m.path }

// Measure returns the log's sizes. With full it looks at all files although the
// one that is being written and the directory are as they were. A file that does
// not exist (yet) is 0 bytes large.
//
// The error matches fs.ErrNotExist if the log's whole directory is gone, as it is
// when the runtime has removed the container; then the last known sizes are
// returned with it.
func (m *LogMeter) Measure(full bool) (LogSizes, error) {
	dirName := filepath.Dir(m.path)
	dir, err := stampOf(dirName)
	if err == nil && !dir.exists {
		err = fs.ErrNotExist
	}
	if err != nil {
		return m.last, fmt.Errorf("measuring log %s: %w", m.path, err)
	}
	file, err := stampOf(m.path)
	if err != nil {
		return m.last, fmt.Errorf("measuring log %s: %w", m.path, err)
	}
	same := file == m.file && dir == m.dir
	if same && m.settled && !full {
		return m.last, nil
	}
	sizes, err := logSizes(dirName, filepath.Base(m.path))
	if err != nil {
		return m.last, fmt.Errorf("measuring log %s: %w", m.path, err)
	}
	// A rotated file is compressed beside the one that is written, so once more
	// after nothing changed.
	m.settled = same && sizes == m.last
	m.file, m.dir, m.last = file, dir, sizes
	return sizes, nil
}

// stampOf looks at a file; one that is not there has a stamp too.
func stampOf(name string) (logStamp, error) {
	var st unix.Stat_t
	switch err := unix.Lstat(name, &st); {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return logStamp{}, nil
	case err != nil:
		return logStamp{}, err
	}
	return logStamp{exists: true, device: st.Dev, inode: st.Ino, size: st.Size, blocks: st.Blocks, modified: st.Mtim}, nil
}

// logSizes adds up the files called base, and base followed by a dot and more:
// base.1, base.2.gz.
func logSizes(dir, base string) (LogSizes, error) {
	var sum LogSizes
	entries, err := os.ReadDir(dir)
	if err != nil {
		return sum, err
	}
	for _, e := range entries {
		if e.Name() != base && !strings.HasPrefix(e.Name(), base+".") {
			continue
		}
		var st unix.Stat_t
		err := unix.Lstat(filepath.Join(dir, e.Name()), &st)
		if errors.Is(err, unix.ENOENT) {
			continue // rotated away meanwhile
		}
		if err != nil {
			return sum, err
		}
		if st.Mode&unix.S_IFMT != unix.S_IFREG {
			continue
		}
		sum.Files++
		sum.Size += st.Size
		sum.Allocated += st.Blocks * 512
	}
	return sum, nil
}
