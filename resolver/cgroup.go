package resolver

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	// maxActors bounds the cache of cgroups.
	maxActors = 1 << 14
	// idDigits is how long the ids of most runtimes are, in hexadecimal digits.
	idDigits = 64
)

// actors finds the container of a cgroup. Safe for concurrent use.
type actors struct {
	// open returns the path of a cgroup by its id, or an error that matches
	// unix.ESTALE if there is none (any more).
	open func(id uint64) (string, error)

	mu    sync.Mutex
	known map[uint64]string // a container's own cgroup
	// looked holds what the paths of other cgroups tell. Cgroup ids are not used
	// again, so entries stay true, of cgroups that are gone since as well.
	looked map[uint64]pathIDs
}

func newActors(open func(uint64) (string, error)) *actors {
	return &actors{open: open, known: make(map[uint64]string), looked: make(map[uint64]pathIDs)}
}

// add notes a container's own cgroup.
func (a *actors) add(cgroupID uint64, containerID string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.known[cgroupID] = containerID
}

// note keeps what the path of a cgroup tells.
func (a *actors) note(cgroupID uint64, found pathIDs) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.looked) >= maxActors {
		// Any will do: to look one up again costs microseconds, and one that is
		// gone meanwhile has hardly anything left to report.
		for drop := range a.looked {
			delete(a.looked, drop)
			if len(a.looked) < maxActors*3/4 {
				break
			}
		}
	}
	a.looked[cgroupID] = found
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

// own returns the container that a cgroup was made for.
func (a *actors) own(cgroupID uint64) (string, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	id, ok := a.known[cgroupID]
	return id, ok
}

// find returns the container of a cgroup. isContainer tells which ids the
// runtime knows.
func (a *actors) find(cgroupID uint64, isContainer func(string) bool) (string, bool) {
	if cgroupID == 0 {
		return "", false
	}
	a.mu.Lock()
	id, known := a.known[cgroupID]
	found, looked := a.looked[cgroupID]
	a.mu.Unlock()
	if known {
		return id, true
	}
	if !looked {
		name, err := a.open(cgroupID)
		if err != nil && !errors.Is(err, unix.ESTALE) {
			return "", false // may be possible later
		}
		found = pathIDs{ids: containerIDs(name), pairs: componentPairs(name)}
		a.note(cgroupID, found)
	}
	// Of nested containers (docker in docker) the runtime knows one.
	for _, ids := range [][]string{found.ids, found.pairs} {
		for _, id := range slices.Backward(ids) {
			if isContainer(id) {
				return id, true
			}
		}
	}
	if len(found.ids) > 0 {
		return found.ids[0], true
	}
	return "", false
}

// pathIDs is what a cgroup's path tells of containers, outermost first; nothing
// for a cgroup that was gone already.
type pathIDs struct {
	ids   []string // certainly ids of containers
	pairs []string // ids if the runtime knows them: NAMESPACE/NAME of containerd
}

// componentPairs returns each two neighbours in a path.
func componentPairs(name string) []string {
	components := strings.Split(strings.Trim(name, "/"), "/")
	var pairs []string
	for i := 1; i < len(components); i++ {
		pairs = append(pairs, components[i-1]+"/"+components[i])
	}
	return pairs
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
	component = strings.TrimSuffix(component, ".scope")
	prefix := len(component) - idDigits
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

// hierarchy is the cgroup hierarchy in which containers are told apart.
type hierarchy struct {
	controller string // of v1 that is used for it; empty for v2
	root       string // where it is mounted on the host; empty if there is none
	mounted    string // which of its directories is
}

// v1Controllers are those that each runtime makes a container's cgroups for, if
// they are there.
var v1Controllers = []string{"memory", "pids", "devices", "cpu", "freezer", "blkio", "cpuset"}

// findHierarchy chooses as runtimes do: they use v1 wherever their controllers are
// mounted so, though v2 may be there beside them (hybrid), without controllers
// and, with older runtimes, without cgroups of containers.
func findHierarchy(table mountTable) hierarchy {
	visible := func(m mountEntry) bool {
		at, ok := table.at(m.point)
		return ok && at.id == m.id
	}
	for _, controller := range v1Controllers {
		for _, m := range table {
			if m.fsType == "cgroup" && hasOption(m.options, controller) && visible(m) {
				return hierarchy{controller, m.point, m.root}
			}
		}
	}
	for _, m := range table {
		if m.fsType == "cgroup2" && visible(m) {
			return hierarchy{"", m.point, m.root}
		}
	}
	return hierarchy{}
}

// dir returns where this process finds the directory of a cgroup, named by its path
// from the root of the hierarchy or by one below the place where that is mounted; ok
// is false if it has none.
func (h hierarchy) dir(hostRoot, name string) (dir string, ok bool) {
	base := h.root
	if !under(base, name) {
		base = h.mounted
	}
	if h.root == "" || !under(base, name) {
		return "", false
	}
	dir = filepath.Join(hostRoot+h.root, strings.TrimPrefix(name, base))
	return dir, exists(filepath.Join(dir, "cgroup.procs"))
}

// CgroupController returns the cgroup v1 controller in whose hierarchy containers
// are told apart, empty for v2.
func (r *Resolver) CgroupController() string { return r.cgroups.controller }

// path returns a process's path, from the root of the hierarchy, given the text of
// /proc/PID/cgroup; empty if it is in none, or in one outside of our cgroup namespace.
func (h hierarchy) path(data []byte) string {
	for line := range bytes.Lines(data) {
		// 9:cpu,cpuacct:/docker/<id>
		_, rest, _ := strings.Cut(strings.TrimSuffix(string(line), "\n"), ":")
		controllers, path, _ := strings.Cut(rest, ":")
		ours := controllers == h.controller || h.controller != "" && hasOption(controllers, h.controller)
		if ours && strings.HasPrefix(path, "/") && !slices.Contains(strings.Split(path, "/"), "..") {
			return path
		}
	}
	return ""
}

// own returns the path, from the root of the hierarchy, of the cgroup that was made
// for the container, given the text of /proc/PID/cgroup of its init process. That
// process may be further down (systemd moves itself), and it may be in none of its
// own: then it returns "".
func (h hierarchy) own(data []byte, containerID string) string {
	name := strings.TrimPrefix(h.path(data), "/")
	length := 0
	for component := range strings.SplitSeq(name, "/") {
		length += len(component)
		id, ok := componentID(component)
		if ok && id == containerID || strings.Contains(containerID, "/") && strings.HasSuffix("/"+name[:length], "/"+containerID) {
			return "/" + name[:length]
		}
		length++ // the slash
	}
	return ""
}

// cgroupID returns the id of a container's own cgroup, 0 if it has none.
func (r *Resolver) cgroupID(pid int, containerID string) uint64 {
	if r.cgroups.root == "" {
		return 0
	}
	data, err := os.ReadFile(filepath.Join(r.procRoot, strconv.Itoa(pid), "cgroup"))
	if err != nil {
		return 0
	}
	name := r.cgroups.own(data, containerID)
	if name == "" || !under(r.cgroups.mounted, name) {
		return 0
	}
	var st unix.Stat_t
	inner := strings.TrimPrefix(name, r.cgroups.mounted)
	if err := unix.Stat(filepath.Join(r.hostRoot+r.cgroups.root, inner), &st); err != nil {
		return 0
	}
	// The next one is likely to be made beside it.
	if err := r.groups.watch(path.Dir(name)); err != nil {
		r.log.Debug().Err(err).Msg("new control groups are not noticed")
	}
	return st.Ino
}

// cgroupHandles finds cgroups by their ids.
type cgroupHandles struct {
	root int // descriptor of the hierarchy's mount point
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
