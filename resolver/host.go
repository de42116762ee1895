package resolver

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// The kernel's initial namespaces have inode numbers that never change.
const (
	initialPIDs    = "pid:[4026531836]"
	initialCgroups = "cgroup:[4026531835]"
)

// ViewError says that this process does not see the host, because of how it, or
// the container that it runs in, was started.
type ViewError struct {
	// Missing is the option of docker run that makes the difference.
	Missing string
	Cause   string
}

func (e *ViewError) Error() string { return e.Cause }

// HostRoot returns where the host's root directory is: empty if it is ours, a path
// below procRoot if we run in a container that sees the host's processes. Errors
// are *ViewError where we can not see what has to be seen.
func HostRoot(procRoot string) (string, error) {
	link := func(name string) (string, error) { return os.Readlink(filepath.Join(procRoot, name)) }
	if pids, err := link("self/ns/pid"); err == nil && pids != initialPIDs {
		return "", &ViewError{"--pid=host", "it runs in a pid namespace of its own and does not see the host's processes"}
	}
	if cgroups, err := link("self/ns/cgroup"); err == nil && cgroups != initialCgroups {
		return "", &ViewError{"--cgroupns=host", "it runs in a cgroup namespace of its own and does not see the host's control groups"}
	}
	var ours, hosts unix.Stat_t
	if err := unix.Stat(filepath.Join(procRoot, "self/root"), &ours); err != nil {
		return "", fmt.Errorf("looking at the root directory: %w", err)
	}
	root := filepath.Join(procRoot, "1/root")
	switch err := unix.Stat(root, &hosts); {
	case errors.Is(err, fs.ErrPermission):
		return "", &ViewError{"--privileged", "it may not look at the host's processes"}
	case err != nil:
		return "", fmt.Errorf("looking at the root directory of process 1: %w", err)
	case ours.Dev == hosts.Dev && ours.Ino == hosts.Ino:
		return "", nil
	}
	return root, nil
}

// hostMounts is the mount table in which paths of the host are to be looked up.
func (r *Resolver) hostMounts() string { return hostMountTable(r.procRoot, r.hostRoot) }

func hostMountTable(procRoot, hostRoot string) string {
	process := "self"
	if hostRoot != "" {
		process = "1"
	}
	return filepath.Join(procRoot, process, "mountinfo")
}

// statHost is stat for a path of the host.
func (r *Resolver) statHost(name string, st *unix.Stat_t) error {
	found, err := Reach(r.hostRoot, name)
	if err != nil {
		return err
	}
	return unix.Stat(found, st)
}

// Reach returns where this process finds a path of the host, whose root directory is
// where HostRoot says.
func Reach(hostRoot, name string) (string, error) {
	if hostRoot == "" {
		return name, nil
	}
	found, err := canonicalBelow(hostRoot, name)
	if err != nil {
		return "", err
	}
	return hostRoot + found, nil
}

// canonical returns a path of the host without symlinks.
func (r *Resolver) canonical(name string) (string, error) {
	if r.hostRoot == "" {
		return filepath.EvalSymlinks(name)
	}
	return canonicalBelow(r.hostRoot, name)
}

// canonicalBelow returns a path of the host without symlinks. An absolute symlink
// leads to the host's root, not to ours.
func canonicalBelow(hostRoot, name string) (string, error) {
	root, err := unix.Open(hostRoot, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("opening %s: %w", hostRoot, err)
	}
	defer unix.Close(root)
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT}
	fd, err := unix.Openat2(root, name, &how)
	if err != nil {
		return "", fmt.Errorf("opening %s: %w", name, err)
	}
	defer unix.Close(fd)
	base, err := nameOf(root)
	if err != nil {
		return "", err
	}
	found, err := nameOf(fd)
	if err != nil {
		return "", err
	}
	if base != "/" {
		found = strings.TrimPrefix(found, base)
	}
	return found, nil
}

// nameOf returns the path of an open file.
func nameOf(fd int) (string, error) {
	return os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
}
