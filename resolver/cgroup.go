package resolver

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// maxActors bounds the cache of cgroups.
const maxActors = 1 << 14

// actors finds the container of a cgroup. Safe for concurrent use.
type actors struct {
	// open returns the path of a cgroup by its id, or an error that matches
	// unix.ESTALE if there is none (any more).
	open func(id uint64) (string, error)

	mu    sync.Mutex
	known map[uint64]string // a container's own cgroup
	// looked holds, for other cgroups, the container ids in the path, outermost
	// first; none for a cgroup of the host, or one that was gone already.
	// Cgroup ids are not used again, so entries stay true, of cgroups that are
	// gone since as well.
	looked map[uint64][]string
}

func newActors(open func(uint64) (string, error)) *actors {
	return &actors{open: open, known: make(map[uint64]string), looked: make(map[uint64][]string)}
}

// add notes a container's own cgroup.
func (a *actors) add(cgroupID uint64, containerID string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.known[cgroupID] = containerID
}

// forget drops the cgroups of a container.
func (a *actors) forget(containerID string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for cgroup, id := range a.known {
		if id == containerID {
			delete(a.known, cgroup)
		}
	}
}

// find returns the container of a cgroup. isContainer tells which ids the
// runtime knows.
func (a *actors) find(cgroupID uint64, isContainer func(string) bool) (string, bool) {
	if cgroupID == 0 {
		return "", false
	}
	a.mu.Lock()
	id, known := a.known[cgroupID]
	ids, looked := a.looked[cgroupID]
	a.mu.Unlock()
	if known {
		return id, true
	}
	if !looked {
		name, err := a.open(cgroupID)
		if err != nil && !errors.Is(err, unix.ESTALE) {
			return "", false // may be possible later
		}
		ids = containerIDs(name)
		a.mu.Lock()
		if len(a.looked) >= maxActors {
			// Any will do: to look one up again costs microseconds, and one
			// that is gone meanwhile has hardly anything left to report.
			for drop := range a.looked {
				delete(a.looked, drop)
				if len(a.looked) < maxActors*3/4 {
					break
				}
			}
		}
		a.looked[cgroupID] = ids
		a.mu.Unlock()
	}
	// Of nested containers (docker in docker) the runtime knows one.
	for i := len(ids) - 1; i >= 0; i-- {
		if isContainer(ids[i]) {
			return ids[i], true
		}
	}
	if len(ids) > 0 {
		return ids[0], true
	}
	return "", false
}

// containerIDs returns the container ids in a cgroup's path, outermost first.
func containerIDs(name string) []string {
	var ids []string
	for component := range strings.SplitSeq(name, "/") {
		if id, ok := componentID(component); ok {
			ids = append(ids, id)
		}
	}
	return ids
}

// componentID returns the container id in one component of a cgroup's path:
// <id>, docker-<id>.scope, libpod-payload-<id>, …slice:cri-containerd:<id>. What
// the runtimes' names have in common is the id at the end. The cgroup of a
// monitor (conmon) has one too, but the container's processes are not in it.
func componentID(component string) (string, bool) {
	const digits = 64
	component = strings.TrimSuffix(component, ".scope")
	prefix := len(component) - digits
	if prefix < 0 || prefix > 0 && component[prefix-1] != '-' && component[prefix-1] != ':' {
		return "", false
	}
	id := component[prefix:]
	if !isHex(id) || strings.Contains(component[:prefix], "conmon") {
		return "", false
	}
	return id, true
}

func isHex(s string) bool { return strings.Trim(s, "0123456789abcdef") == "" }

// ownCgroup returns the path, from the root of the v2 hierarchy, of the cgroup
// that was made for the container, given the text of /proc/PID/cgroup of its init
// process. That process may be further down (systemd moves itself), and on a
// host with cgroup v1 it may be in none of its own: then it returns "".
func ownCgroup(data []byte, containerID string) string {
	for line := range bytes.Lines(data) {
		name, ok := strings.CutPrefix(strings.TrimSuffix(string(line), "\n"), "0::/")
		if !ok {
			continue
		}
		length := 0
		for component := range strings.SplitSeq(name, "/") {
			length += len(component)
			if component == ".." {
				return "" // outside of our cgroup namespace
			}
			if id, ok := componentID(component); ok && id == containerID {
				return "/" + name[:length]
			}
			length++ // the slash
		}
	}
	return ""
}

// cgroupID returns the id of a container's own cgroup, 0 if it has none.
func (r *Resolver) cgroupID(pid int, containerID string) uint64 {
	if r.cgroupRoot == "" {
		return 0
	}
	data, err := os.ReadFile(filepath.Join(r.procRoot, strconv.Itoa(pid), "cgroup"))
	if err != nil {
		return 0
	}
	name := ownCgroup(data, containerID)
	if name == "" {
		return 0
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(r.cgroupRoot, name), &st); err != nil {
		return 0
	}
	return st.Ino
}

// cgroupHandles finds cgroups by their ids.
type cgroupHandles struct {
	root int // descriptor of the v2 hierarchy's mount point
}

// open returns a cgroup's path. The kernel looks it up by id, so it takes
// microseconds however many cgroups there are. It needs CAP_DAC_READ_SEARCH.
func (h cgroupHandles) open(id uint64) (string, error) {
	// FILEID_KERNFS: the handle is the id.
	const fileIDKernfs = 0xfe
	handle := unix.NewFileHandle(fileIDKernfs, binary.NativeEndian.AppendUint64(nil, id))
	fd, err := unix.OpenByHandleAt(h.root, handle, unix.O_PATH|unix.O_CLOEXEC)
	if err != nil {
		return "", fmt.Errorf("opening cgroup %d: %w", id, err)
	}
	defer unix.Close(fd)
	name, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
	if err != nil {
		return "", fmt.Errorf("naming cgroup %d: %w", id, err)
	}
	return strings.TrimSuffix(name, " (deleted)"), nil
}
