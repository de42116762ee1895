package sessiontest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/layertrace/layertrace/resolver"
)

// Containers is a runtime whose containers are what the test says.
type Containers struct {
	// Err is what every call that can fail fails with, if not nil. See Fail.
	Err error
	// OnLayerMounted, if set, answers for LayerMounted.
	OnLayerMounted func() bool
	// Silent keeps Watch from ever having reported all containers.
	Silent bool

	mu      sync.Mutex
	list    []resolver.Container
	changes chan resolver.Change
	closed  bool
}

// NewContainers returns a runtime with the given containers.
func NewContainers(list ...resolver.Container) *Containers {
	return &Containers{list: list, changes: make(chan resolver.Change)}
}

// ID returns a container id that begins with prefix.
func ID(prefix string) string { return prefix + strings.Repeat("0", 64-len(prefix)) }

// NewContainer makes a running container whose layer is a directory of the test,
// with files of the given sizes.
func NewContainer(tb testing.TB, name string, files map[string]int) resolver.Container {
	tb.Helper()
	upper := filepath.Join(tb.TempDir(), "diff")
	if err := os.Mkdir(upper, 0o755); err != nil {
		tb.Fatal(err)
	}
	for path, size := range files {
		Write(tb, filepath.Join(upper, path), size)
	}
	st := lstat(tb, upper)
	return resolver.Container{
		ID: ID(name2hex(name)), Name: name, Image: name + ":1", Runtime: "docker", State: resolver.StateRunning,
		InitPID: 4000, CgroupID: 7, Driver: "overlay2",
		UpperDir: upper, UpperDevice: st.Dev, UpperInode: st.Ino, OverlayDevice: 99,
	}
}

// name2hex makes hex digits of a name, so that containers are told apart.
func name2hex(name string) string {
	const digits = "0123456789abcdef"
	var b strings.Builder
	for _, c := range []byte(name) {
		b.WriteByte(digits[c>>4])
		b.WriteByte(digits[c&15])
	}
	return b.String()
}

// Write makes path a file of the given size, with its directories, behind the
// kernel side's back.
func Write(tb testing.TB, path string, size int) {
	tb.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(path, make([]byte, size), 0o644); err != nil {
		tb.Fatal(err)
	}
}

// Send reports a change and returns once it was taken.
func (c *Containers) Send(kind resolver.ChangeKind, of resolver.Container) {
	c.changes <- resolver.Change{Kind: kind, Container: of}
}

// Watch implements session.Containers.
func (c *Containers) Watch(ctx context.Context, sel resolver.Selection, fn func(resolver.Change)) error {
	for _, found := range c.snapshot() {
		if sel.All || slices.Contains(sel.Refs, found.Name) || slices.Contains(sel.Refs, found.ID) {
			fn(resolver.Change{Kind: resolver.Found, Container: found})
		}
	}
	if !c.Silent {
		sel.Synced()
	}
	for {
		select {
		case change := <-c.changes:
			fn(change)
		case <-ctx.Done():
			return nil
		}
	}
}

// Fail sets Err while a test runs.
func (c *Containers) Fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.Err = err
}

func (c *Containers) failure() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.Err
}

func (c *Containers) snapshot() []resolver.Container {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.list)
}

// RefreshMounts implements session.Containers.
func (c *Containers) RefreshMounts(of resolver.Container) resolver.Container { return of }

// LayerMounted implements session.Containers.
func (c *Containers) LayerMounted(of *resolver.Container) bool {
	if c.OnLayerMounted != nil {
		return c.OnLayerMounted()
	}
	return of.OverlayDevice != 0 || of.Plain && of.Running()
}

// Actor implements session.Containers: cgroup 7 is the first container's.
func (c *Containers) Actor(cgroupID uint64) (string, bool) {
	if list := c.snapshot(); cgroupID == 7 && len(list) > 0 {
		return list[0].ID, true
	}
	return "", false
}

// ProcessAlive implements session.Containers.
func (c *Containers) ProcessAlive(uint32, uint64) bool { return true }

// Find finds by name, id or prefix of an id.
func (c *Containers) Find(_ context.Context, ref string) (resolver.Container, error) {
	if err := c.failure(); err != nil {
		return resolver.Container{}, err
	}
	var matches []resolver.Container
	for _, found := range c.snapshot() {
		if found.Name == ref {
			return found, nil
		}
		if strings.HasPrefix(found.ID, ref) {
			matches = append(matches, found)
		}
	}
	switch len(matches) {
	case 0:
		return resolver.Container{}, &resolver.NotFoundError{Name: ref, Nearest: c.nearest(ref)}
	case 1:
		return matches[0], nil
	}
	err := &resolver.AmbiguousError{Prefix: ref}
	for _, m := range matches {
		err.Matches = append(err.Matches, m.ID)
	}
	return resolver.Container{}, err
}

func (c *Containers) nearest(ref string) string {
	for _, found := range c.snapshot() {
		if found.Name[0] == ref[0] {
			return found.Name
		}
	}
	return ""
}

// List returns all containers.
func (c *Containers) List(context.Context) ([]resolver.Container, error) {
	return c.snapshot(), c.failure()
}

// Names returns all containers in short.
func (c *Containers) Names(context.Context) ([]resolver.Listed, error) {
	if err := c.failure(); err != nil {
		return nil, err
	}
	var listed []resolver.Listed
	for _, found := range c.snapshot() {
		listed = append(listed, resolver.Listed{ID: found.ID, Name: found.Name, State: found.State})
	}
	return listed, nil
}

// HostPath is the mount's source.
func (c *Containers) HostPath(m resolver.Mount) string { return m.Source }

// Info describes a Docker daemon.
func (c *Containers) Info(context.Context) ([]resolver.EngineInfo, error) {
	return []resolver.EngineInfo{{Version: "29.0.0", APIVersion: "1.51", Driver: "overlay2", Containers: len(c.snapshot())}}, c.failure()
}

// CgroupController is that of cgroup v2: none.
func (c *Containers) CgroupController() string { return "" }

// Close notes that it was called; twice is an error.
func (c *Containers) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return errors.New("closed twice")
	}
	c.closed = true
	return nil
}
