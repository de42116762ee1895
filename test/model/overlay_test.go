package model

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/tracer"
	"github.com/layertrace/layertrace/tracer/event"
)

// inode is what a walk says of an inode of the upper directory.
type inode struct {
	path       string // one of its names
	mode       uint32
	size, disk int64 // size is 0 of directories
	whiteout   bool
}

// walk looks at each inode of a directory once, as docker and du do.
func walk(root string) (map[uint64]inode, error) {
	seen := map[uint64]inode{}
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return fmt.Errorf("looking at %s: %w", path, err)
		}
		if _, ok := seen[st.Ino]; ok {
			return nil
		}
		i := inode{path: path[len(root):], mode: st.Mode, disk: st.Blocks * 512}
		if i.mode&unix.S_IFMT != unix.S_IFDIR {
			i.size = st.Size
		}
		i.whiteout = i.mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
		seen[st.Ino] = i
		return nil
	})
	return seen, err
}

// content writes a file of so many bytes.
func content(path string, size int) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, pattern(size), 0o644)
}

// sparse writes a file with a byte at each of the offsets, cut or extended to size.
func sparse(path string, size int64, at ...int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, offset := range at {
		if _, err := f.WriteAt([]byte{'s'}, offset); err != nil {
			return err
		}
	}
	return f.Truncate(size)
}

// populateLower makes the image.
func populateLower(dir string) error {
	var errs []error
	for path, size := range map[string]int{
		"/img/small": 9, "/img/mid": 5000, "/img/big": 70000, "/img/hard1": 2000, "/img/sub/a": 300,
		"/img/sub/b": 4096, "/img/sub/deep/c": 100, "/e/b": 10000, "/e/img/x": 1, "/d/a": 20, "/old": 10,
	} {
		errs = append(errs, content(dir+path, size))
	}
	errs = append(errs,
		sparse(dir+"/img/sparse", 1<<20, 0, 300000, 700000),
		os.Mkdir(dir+"/img/empty", 0o755),
		os.Link(dir+"/img/hard1", dir+"/img/hard2"),
		os.Symlink("small", dir+"/img/link"),
	)
	if hasUserAttributes(dir) {
		errs = append(errs,
			unix.Setxattr(dir+"/img/mid", "user.a", []byte("small"), 0),
			unix.Setxattr(dir+"/img/big", "user.b", bytes.Repeat([]byte("large"), 500), 0),
		)
	}
	return errors.Join(errs...)
}

// hasUserAttributes tells whether the file system has extended attributes of users:
// tmpfs since 6.6 (upstream 2daf18a7884d), and O_DIRECT since then too.
func hasUserAttributes(dir string) bool {
	return !errors.Is(unix.Setxattr(dir, "user.layertrace", []byte("x"), 0), unix.EOPNOTSUPP)
}

// populateUpper makes what is in the layer before it is watched. It is left in
// memory: the kernel writes it back, and finds out what it takes, during a history.
func populateUpper(dir string) error {
	var errs []error
	for path, size := range map[string]int{"/old": 12345, "/var/log": 4097} {
		errs = append(errs, content(dir+path, size))
	}
	errs = append(errs,
		os.Mkdir(dir+"/d", 0o755),
		sparse(dir+"/d/b", 100000, 0, 10000, 20000, 30000, 40000, 50000),
		os.Link(dir+"/var/log", dir+"/d/log"),
	)
	return errors.Join(errs...)
}

// theLayer is the one that is watched.
const theLayer = event.LayerID(1)

// overlay is a mounted overlay whose layer is watched.
type overlay struct {
	tracer        *tracer.Tracer
	dir           string
	upper, merged string
	device        uint64
	where         event.Upper
	start         map[uint64]inode // when the history begins
}

// newOverlay mounts an overlay in a new directory and begins to watch its layer.
// What was done before an error is left to close.
func newOverlay(t *tracer.Tracer, where event.Upper, lower, dir, options string) (*overlay, error) {
	o := &overlay{tracer: t, dir: dir, upper: dir + "/upper", merged: dir + "/merged", device: where.Device, where: where}
	for _, d := range []string{dir, o.upper, dir + "/work", o.merged} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return o, err
		}
	}
	if err := populateUpper(o.upper); err != nil {
		return o, fmt.Errorf("filling the layer: %w", err)
	}
	options = fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s/work,%s", lower, o.upper, dir, options)
	if err := unix.Mount("overlay", o.merged, "overlay", 0, options); err != nil {
		return o, fmt.Errorf("mounting an overlay with %s: %w", options, err)
	}
	return o, o.watch()
}

// watch takes the layer's baseline. Nobody is at work yet, so that each inode is
// new to the ledger and settles at once.
func (o *overlay) watch() error {
	var err error
	if o.start, err = walk(o.upper); err != nil {
		return err
	}
	for number, i := range o.start {
		if entry, ok, err := o.tracer.Entry(o.device, number); err != nil {
			return err
		} else if ok {
			return fmt.Errorf("%s is new, but its inode %d has a page already: %+v", i.path, number, entry)
		}
	}
	for number, i := range o.start {
		if i.path != "" {
			continue
		}
		o.where.Inode = number
		if err := o.tracer.AddLayer(theLayer, o.where); err != nil {
			return err
		}
	}
	for number, i := range o.start {
		file, _, err := o.tracer.Track(theLayer, o.device, number, i.mode)
		if err != nil {
			return err
		}
		is, err := o.tracer.Settle(o.device, file, i.size, i.disk)
		if err != nil {
			return err
		}
		if is != (tracer.Settled{Size: i.size, Disk: i.disk}) {
			return fmt.Errorf("%s, inode %d, at rest with size %d, disk %d: settled as %+v",
				i.path, number, i.size, i.disk, is)
		}
	}
	return nil
}

// sync has all that is in memory written back to the file system of the layer.
func (o *overlay) sync() error {
	fd, err := unix.Open(o.upper, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Syncfs(fd)
}

// unmount ends the use of the layer, of which nobody may have a file open.
func (o *overlay) unmount() error { return unix.Unmount(o.merged, 0) }

// remove takes away what newOverlay has made. The layer stays known to the
// tracer: the next one has the same id, since forgetting one takes long.
func (o *overlay) remove() error { return os.RemoveAll(o.dir) }
