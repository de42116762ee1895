package inside

import (
	"errors"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Live follows name in a container that runs. process is the directory of its first
// process in a proc file system, such as /proc/4242. Close the Place.
//
// Errors are *NotDirError, *LoopError, or those of looking; they match
// fs.ErrNotExist if the process is gone.
func Live(process, name string) (*Place, error) {
	return walk(&live{process}, name)
}

// live is the tree of a container that runs. Each step goes from an open directory
// to one of its entries without following it, so that whatever the container's
// processes do meanwhile, the walk stays inside.
type live struct{ process string }

func (l *live) root() (node, error) {
	name := filepath.Join(l.process, "root")
	fd, err := unix.Open(name, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return node{}, &os.PathError{Op: "opening", Path: name, Err: err}
	}
	return nodeOf(fd, -1)
}

func (l *live) child(dir *node, at, name string) (node, error) {
	// The container's own idea of "self" is not ours.
	if (name == "self" || name == "thread-self") && isProc(dir.fd) && dir.stat.Ino == procRoot {
		return node{fd: -1, link: map[string]string{"self": "1", "thread-self": "1/task/1"}[name]}, nil
	}
	n, err := childOf(dir, name, -1)
	if err == nil && n.link != "" && !strings.HasPrefix(n.link, "/") && isProc(dir.fd) && dir.stat.Ino != procRoot {
		n.link = "" // the kernel jumps to what it stands for; the text is no path
	}
	return n, err
}

// procRoot is the inode number of a proc file system's root.
const procRoot = 1

func isProc(fd int) bool {
	var st unix.Statfs_t
	return unix.Fstatfs(fd, &st) == nil && st.Type == unix.PROC_SUPER_MAGIC
}

// ownOutput is the standard output or error of the container's first process, and
// of whichever process asks, which is taken for that.
var ownOutput = regexp.MustCompile(`^/proc/(?:self|thread-self|1|1/task/1)/fd/([12])$`)

func (l *live) output(name string) (stream int, file string) {
	m := ownOutput.FindStringSubmatch(name)
	if m == nil {
		return 0, ""
	}
	target, err := os.Readlink(filepath.Join(l.process, "fd", m[1]))
	if err != nil {
		return 0, ""
	}
	if strings.HasPrefix(target, "/") && !strings.HasPrefix(target, "/dev/pts/") && target != "/dev/console" {
		return 0, target
	}
	stream, _ = strconv.Atoi(m[1])
	return stream, ""
}

// childOf looks at an entry of an open directory; errAbsent if there is none.
func childOf(dir *node, name string, mount int) (node, error) {
	var fd int
	err := retry(func() (err error) {
		fd, err = unix.Openat(dir.fd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		return err
	})
	if errors.Is(err, unix.ENOENT) {
		return node{}, errAbsent
	}
	if err != nil {
		return node{}, err
	}
	return nodeOf(fd, mount)
}

// nodeOf describes what is open; its descriptor is closed if that fails.
func nodeOf(fd, mount int) (node, error) {
	n := node{fd: fd, mount: mount}
	if err := unix.Fstat(fd, &n.stat); err != nil {
		unix.Close(fd)
		return node{}, err
	}
	switch n.stat.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		n.dir = true
	case unix.S_IFLNK:
		target, err := readLink(fd)
		if err != nil {
			unix.Close(fd)
			return node{}, err
		}
		n.link = target
	}
	var st unix.Statx_t
	if unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_NO_AUTOMOUNT, unix.STATX_MNT_ID, &st) == nil && st.Mask&unix.STATX_MNT_ID != 0 {
		n.mountID = int(st.Mnt_id)
	}
	return n, nil
}

// readLink returns the target of an open symlink.
func readLink(fd int) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", buf)
	if err != nil {
		return "", err
	}
	if n == 0 || n == len(buf) {
		return "", unix.ENAMETOOLONG
	}
	return string(buf[:n]), nil
}

// retry calls fn again while a signal interrupts it.
func retry(fn func() error) error {
	for {
		if err := fn(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// below returns the components of an absolute path.
func below(name string) []string {
	name = path.Clean("/" + name)
	if name == "/" {
		return nil
	}
	return strings.Split(name[1:], "/")
}
