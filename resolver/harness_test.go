package resolver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// id returns a container id of 64 times the same digit.
func id(digit string) string { return strings.Repeat(digit, 64) }

// fakeEngine is a container runtime in memory.
type fakeEngine struct {
	mu         sync.Mutex
	containers map[string]Details
	down       error // what every call returns
	inspectErr map[string]error
	once       error                    // what the next Inspect returns
	unlisted   int                      // so many Lists fail
	held       map[string]chan struct{} // Inspect waits for them
	subscribed int
	stream     chan Event
	failed     chan error
	rootDir    string
	calls      int
	inspected  int
}

func newFakeEngine(containers ...Details) *fakeEngine {
	e := &fakeEngine{containers: make(map[string]Details), inspectErr: make(map[string]error)}
	for _, d := range containers {
		e.containers[d.ID] = d
	}
	return e
}

func (e *fakeEngine) Close() error { return nil }

func (e *fakeEngine) Info(context.Context) (EngineInfo, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return EngineInfo{RootDir: e.rootDir}, e.down
}

func (e *fakeEngine) List(context.Context) ([]Listed, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.calls++
	if e.down != nil {
		return nil, e.down
	}
	if e.unlisted > 0 {
		e.unlisted--
		return nil, errors.New("no list")
	}
	var listed []Listed
	for _, d := range e.containers {
		listed = append(listed, Listed{ID: d.ID, Name: d.Name, State: d.State})
	}
	slices.SortFunc(listed, func(a, b Listed) int { return strings.Compare(a.ID, b.ID) })
	return listed, nil
}

func (e *fakeEngine) Inspect(ctx context.Context, id string) (Details, error) {
	details, err := e.inspect(id)
	e.mu.Lock()
	hold := e.held[id]
	e.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return Details{}, ctx.Err()
		}
	}
	return details, err
}

func (e *fakeEngine) inspect(id string) (Details, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.inspected++
	if e.down != nil {
		return Details{}, e.down
	}
	if err := e.once; err != nil {
		e.once = nil
		return Details{}, err
	}
	if err := e.inspectErr[id]; err != nil {
		return Details{}, err
	}
	d, ok := e.containers[id]
	if !ok {
		return Details{}, &NotFoundError{Name: id}
	}
	return d, nil
}

func (e *fakeEngine) Events(ctx context.Context) (<-chan Event, <-chan error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.subscribed++
	stream, failed := make(chan Event, 64), make(chan error, 1)
	if e.down != nil {
		failed <- e.down
		return stream, failed
	}
	e.stream, e.failed = stream, failed
	return stream, failed
}

// set changes the containers, as one step.
func (e *fakeEngine) set(change func(map[string]Details)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	change(e.containers)
}

func (e *fakeEngine) send(id, action string, at time.Time) {
	e.event(Event{ID: id, Action: action, Time: at})
}

func (e *fakeEngine) event(event Event) {
	e.mu.Lock()
	stream := e.stream
	e.mu.Unlock()
	stream <- event
}

// slow makes answers about a container wait, which are then what they would have
// been at once.
func (e *fakeEngine) slow(id string, hold chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.held = map[string]chan struct{}{id: hold}
}

func (e *fakeEngine) refuse(id string, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.inspectErr[id] = err
}

func (e *fakeEngine) subscriptions() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.subscribed
}

func (e *fakeEngine) failOnce(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.once = err
}

// hangUp ends the subscription; until comeBack every call fails.
func (e *fakeEngine) hangUp() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.down = fmt.Errorf("test: %w", ErrUnreachable)
	e.failed <- e.down
}

func (e *fakeEngine) comeBack() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.down = nil
}

// host is a machine in a temporary directory.
type host struct {
	testing.TB
	root string
}

func newHost(t testing.TB) *host {
	root, err := filepath.EvalSymlinks(t.TempDir())
	h := &host{t, root}
	h.must(err)
	h.file("proc/self/mountinfo", h.fixture("host.mountinfo"))
	h.dir("cgroup")
	return h
}

func (h *host) must(err error) {
	h.Helper()
	if err != nil {
		h.Fatal(err)
	}
}

func (h *host) dir(name string) string {
	h.Helper()
	name = filepath.Join(h.root, name)
	h.must(os.MkdirAll(name, 0o755))
	return name
}

func (h *host) file(name, text string) {
	h.Helper()
	h.dir(filepath.Dir(name))
	h.must(os.WriteFile(filepath.Join(h.root, name), []byte(text), 0o644))
}

func (h *host) fixture(name string) string {
	h.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	h.must(err)
	// Temporary directories have the test's name in theirs.
	root := strings.NewReplacer(",", `\054`, " ", `\040`).Replace(h.root)
	return strings.ReplaceAll(string(data), "@ROOT@", root)
}

// process makes a process with the mounts of a fixture.
func (h *host) process(pid int, fixture, cgroup string) {
	h.Helper()
	proc := "proc/" + strconv.Itoa(pid)
	h.file(proc+"/mountinfo", h.fixture(fixture))
	h.file(proc+"/cgroup", "7:memory:/x\n0::"+cgroup+"\n")
	h.dir(proc + "/root")
	h.dir("cgroup" + cgroup)
}

func (h *host) resolver(e Engine) *Resolver {
	h.Helper()
	r, err := New(Config{Log: zerolog.Nop(), Engine: e, ProcRoot: filepath.Join(h.root, "proc")})
	h.must(err)
	h.Cleanup(func() { h.must(r.Close()); h.must(r.Close()) })
	return r
}

func inode(t testing.TB, name string) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(name, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

// overlay2 returns a running container of the overlay2 driver, with every kind
// of mount.
func (h *host) overlay2() Details {
	h.Helper()
	h.process(4000, "overlay2.mountinfo", "/docker/"+id("a"))
	h.dir("docker/overlay2/aaaa/diff")
	return Details{
		ID: id("a"), Name: "my-api", Image: "my-api:1.4.0", Runtime: "docker", State: StateRunning, PID: 4000,
		StartedAt: time.Unix(1000, 0), Driver: "overlay2",
		DriverData: map[string]string{"UpperDir": h.root + "/docker/overlay2/aaaa/diff"},
		Mounts: []DeclaredMount{
			{Type: "volume", Name: "named", Source: h.root + "/docker/volumes/named/_data", Destination: "/opt/vol"},
			{Type: "bind", Source: "/data", Destination: "/var/run/b"}, // /var/run is a symlink
			{Type: "image", Source: "tools:2", Destination: "/image", ReadOnly: true},
		},
		Tmpfs:          []string{"/scratch"},
		HostnamePath:   h.root + "/docker/containers/aa/hostname",
		HostsPath:      h.root + "/docker/containers/aa/hosts",
		ResolvConfPath: h.root + "/docker/containers/aa/resolv.conf",
		Labels:         map[string]string{"k": "v"},
	}
}
