package resolver

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// ProcessesConfig says which processes an engine of processes is about. Without
// PIDs and Cgroups these are all whose root is an overlay.
type ProcessesConfig struct {
	// PIDs are processes, each with all others on the same root.
	PIDs []int
	// Cgroups are paths of control groups, from the root of a hierarchy as
	// /proc/PID/cgroup has them, or absolute below where one is mounted; processes
	// of those below them count as theirs.
	Cgroups []string
	// Ended, if set, is called once when none of PIDs' processes is left.
	Ended func()
	// ProcRoot and HostRoot are as in Config.
	ProcRoot, HostRoot string
}

// processes is an Engine without a runtime: what it takes for a container is a
// root overlay and the processes on it. It stays, as exited, when they have ended,
// until its upper directory is seen to be gone.
//
// Its ID is that in the path of the processes' cgroup, if there is one, so that it
// can be found again, and a hash of its upper directory otherwise.
type processes struct {
	cfg        ProcessesConfig
	proc       startTimes
	hierarchy  hierarchy // in which containers are told apart
	cgroupDirs []string  // of cfg.Cgroups

	mu    sync.Mutex
	given map[int]time.Time // when cfg.PIDs started
	known map[string]Details
	roots map[rootKey]string // IDs of roots
	there map[string]bool    // IDs of those whose upper directory could be seen from here
	ended bool
}

// rootKey tells root directories apart. A device is given to another overlay once
// it is free, so that the ID may only be looked up for processes that live.
type rootKey struct{ dev, ino uint64 }

// NewProcesses returns the Engine of processes. It fails if one of cfg.PIDs does not
// exist or its root is no overlay, or one of cfg.Cgroups does not exist.
func NewProcesses(cfg ProcessesConfig) (Engine, error) {
	cfg.ProcRoot = cmp.Or(cfg.ProcRoot, defaultProcRoot)
	clock, err := NewBootClock()
	if err != nil {
		return nil, fmt.Errorf("looking for processes: %w", err)
	}
	p := &processes{
		cfg: cfg, proc: startTimes{clock: clock, root: cfg.ProcRoot},
		given: make(map[int]time.Time), known: make(map[string]Details), roots: make(map[rootKey]string), there: make(map[string]bool),
	}
	table, err := readMounts(hostMountTable(cfg.ProcRoot, cfg.HostRoot), nil)
	if err != nil {
		return nil, fmt.Errorf("looking for processes: %w", err)
	}
	p.hierarchy = findHierarchy(table)
	for _, pid := range cfg.PIDs {
		if p.given[pid] = p.proc.of(pid); p.given[pid].IsZero() {
			return nil, fmt.Errorf("process %d: no such process", pid)
		}
		if _, err := p.upperOf(pid); err != nil {
			return nil, fmt.Errorf("process %d: %w", pid, err)
		}
	}
	for _, name := range cfg.Cgroups {
		dir, ok := p.cgroupDir(table, name)
		if !ok {
			return nil, fmt.Errorf("control group %s: %w", name, unix.ENOENT)
		}
		p.cgroupDirs = append(p.cgroupDirs, dir)
	}
	return p, nil
}

func (p *processes) Close() error { return nil }

func (p *processes) Info(ctx context.Context) (EngineInfo, error) {
	listed, err := p.List(ctx)
	return EngineInfo{Driver: "overlay", Containers: len(listed)}, err
}

func (p *processes) List(context.Context) ([]Listed, error) {
	p.look()
	p.mu.Lock()
	defer p.mu.Unlock()
	listed := make([]Listed, 0, len(p.known))
	for _, d := range p.known {
		listed = append(listed, Listed{ID: d.ID, Name: d.Name, State: d.State})
	}
	slices.SortFunc(listed, func(a, b Listed) int { return cmp.Compare(a.ID, b.ID) })
	return listed, nil
}

func (p *processes) Inspect(_ context.Context, id string) (Details, error) {
	p.look()
	p.mu.Lock()
	defer p.mu.Unlock()
	d, ok := p.known[id]
	if !ok {
		return Details{}, &NotFoundError{Name: id}
	}
	return d, nil
}

func (p *processes) Events(ctx context.Context) (<-chan Event, <-chan error) {
	return pollEvents(ctx, nil, func() (map[string]seen, error) {
		p.look()
		p.mu.Lock()
		defer p.mu.Unlock()
		now := make(map[string]seen, len(p.known))
		for id, d := range p.known {
			now[id] = seen{name: d.Name, state: d.State, pid: d.PID, started: d.StartedAt}
		}
		return now, nil
	})
}

// look brings what is known up to date.
func (p *processes) look() {
	p.mu.Lock()
	defer p.mu.Unlock()
	orphaned := false
	for id, d := range p.known {
		if d.PID != 0 && !p.proc.of(d.PID).Equal(d.StartedAt) {
			d.State, d.PID = StateExited, 0
			p.known[id] = d
			orphaned = true
		} else if d.PID == 0 && p.there[id] && !exists(d.DriverData["UpperDir"]) {
			p.forget(id)
		}
	}
	for pid := range p.chosen() {
		p.take(pid, true)
	}
	if orphaned {
		// Any other process on the root stands for it then.
		for _, pid := range p.everyone() {
			p.take(pid, false)
		}
	}
	if !p.ended && len(p.cfg.PIDs) > 0 && !p.anyLeft() {
		p.ended = true
		if p.cfg.Ended != nil {
			p.cfg.Ended()
		}
	}
}

func (p *processes) anyLeft() bool {
	for _, d := range p.known {
		if d.PID != 0 {
			return true
		}
	}
	return false
}

// chosen yields the processes that the configuration names.
func (p *processes) chosen() iter.Seq[int] {
	return func(yield func(int) bool) {
		for pid, started := range p.given {
			if p.proc.of(pid).Equal(started) && !yield(pid) {
				return
			}
		}
		for _, dir := range p.cgroupDirs {
			for _, pid := range membersBelow(dir) {
				if !yield(pid) {
					return
				}
			}
		}
		if len(p.cfg.PIDs) == 0 && len(p.cfg.Cgroups) == 0 {
			for _, pid := range p.everyone() {
				if !yield(pid) {
					return
				}
			}
		}
	}
}

// everyone returns all processes, oldest first as far as their numbers tell.
func (p *processes) everyone() []int {
	entries, err := os.ReadDir(p.cfg.ProcRoot)
	if err != nil {
		return nil
	}
	var pids []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return pids
}

// take lets a process stand for its root, if none does. Roots that are not known
// yet are of interest if fresh is set.
func (p *processes) take(pid int, fresh bool) {
	key, ok := p.rootKey(pid)
	if !ok {
		return
	}
	id, known := p.roots[key]
	if known && p.known[id].PID != 0 || !known && !fresh {
		return
	}
	upper, err := p.upperOf(pid)
	started := p.proc.of(pid)
	if err != nil || started.IsZero() {
		return // no overlay, or it has just ended
	}
	if !known || p.known[id].DriverData["UpperDir"] != upper {
		id = p.identify(pid, upper)
		p.roots[key] = id
	}
	d, again := p.known[id]
	if again && d.PID != 0 {
		return // the same cgroup has several roots: the first one counts
	}
	if !again {
		d = Details{
			ID: id, Name: p.name(pid), Runtime: RuntimeNone, Driver: "overlay",
			DriverData: map[string]string{"UpperDir": upper},
		}
	}
	d.State, d.PID, d.StartedAt = StateRunning, pid, started
	p.known[id] = d
	p.there[id] = exists(upper)
}

func exists(name string) bool {
	_, err := os.Lstat(name)
	return err == nil
}

func (p *processes) forget(id string) {
	delete(p.known, id)
	delete(p.there, id)
	maps.DeleteFunc(p.roots, func(_ rootKey, of string) bool { return of == id })
}

// rootKey tells a process's root; ok is false if the process is gone.
func (p *processes) rootKey(pid int) (rootKey, bool) {
	var st unix.Stat_t
	if unix.Stat(p.file(pid, "root"), &st) != nil {
		return rootKey{}, false
	}
	return rootKey{st.Dev, st.Ino}, true
}

// upperOf returns the upper directory of a process's root.
func (p *processes) upperOf(pid int) (string, error) {
	table, err := readMounts(p.file(pid, "mountinfo"), nil)
	if err != nil {
		return "", err
	}
	root, ok := table.at("/")
	if !ok || root.fsType != "overlay" {
		return "", fmt.Errorf("its root is no overlay but %s", cmp.Or(root.fsType, "nothing that the mount table shows"))
	}
	upper := upperDirs(root.options)
	if upper == nil {
		return "", errors.New("its root is an overlay without a writable layer")
	}
	return path.Clean(upper[0]), nil
}

// identify makes the ID of a process's root.
func (p *processes) identify(pid int, upper string) string {
	if ids := containerIDs(p.cgroupOf(pid)); len(ids) > 0 {
		id := ids[len(ids)-1]
		if d, taken := p.known[id]; !taken || d.DriverData["UpperDir"] == upper {
			return id
		}
	}
	sum := sha256.Sum256([]byte(upper))
	return hex.EncodeToString(sum[:])
}

// name is what a person calls the processes.
func (p *processes) name(pid int) string {
	comm, _ := os.ReadFile(p.file(pid, "comm"))
	return strings.TrimSuffix(string(comm), "\n") + "-" + strconv.Itoa(pid)
}

// cgroupOf returns a process's path in the hierarchy in which containers are told apart.
func (p *processes) cgroupOf(pid int) string {
	data, err := os.ReadFile(p.file(pid, "cgroup"))
	if err != nil {
		return ""
	}
	return p.hierarchy.path(data)
}

func (p *processes) file(pid int, name string) string {
	return filepath.Join(p.cfg.ProcRoot, strconv.Itoa(pid), name)
}

// cgroupDir returns where this process finds the directory of a control group. With v1
// not every hierarchy has it: one of systemd's has no controller, another is v2.
func (p *processes) cgroupDir(table mountTable, name string) (dir string, ok bool) {
	if dir, ok := p.hierarchy.dir(p.cfg.HostRoot, name); ok {
		return dir, true
	}
	for _, m := range table {
		if m.fsType != "cgroup" && m.fsType != "cgroup2" {
			continue
		}
		if dir, ok := (hierarchy{root: m.point, mounted: m.root}).dir(p.cfg.HostRoot, name); ok {
			return dir, true
		}
	}
	return "", false
}

// membersBelow returns the processes in a control group and in those below it.
func membersBelow(dir string) []int {
	var pids []int
	_ = filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.Name() != "cgroup.procs" {
			return nil // a group that has just gone has no processes
		}
		data, _ := os.ReadFile(name)
		for line := range bytes.Lines(data) {
			// 0 is a process of another pid namespace.
			if pid, err := strconv.Atoi(string(bytes.TrimSpace(line))); err == nil && pid > 0 {
				pids = append(pids, pid)
			}
		}
		return nil
	})
	slices.Sort(pids)
	return pids
}
