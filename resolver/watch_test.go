package resolver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
)

// logBuffer is a buffer that several goroutines write to.
type logBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *logBuffer) text() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.String()
}

// watch is a running Watch and what it reports.
type watch struct {
	*host
	engine  *fakeEngine
	r       *Resolver
	log     logBuffer
	changes chan Change
	synced  chan struct{}
	end     func()
}

func newWatch(t *testing.T, e *fakeEngine, every time.Duration, sel Selection) *watch {
	w := &watch{host: newHost(t), engine: e, changes: make(chan Change, 100), synced: make(chan struct{})}
	r, err := New(Config{
		Log: zerolog.New(&w.log), Engine: e, ProcRoot: w.root + "/proc", ReconcileEvery: every,
	})
	w.must(err)
	w.r = r
	sel.Synced = func() { close(w.synced) }
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Watch(ctx, sel, func(c Change) { w.changes <- c }) }()
	w.end = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		w.must(r.Close())
	})
	t.Cleanup(w.end)
	return w
}

// expect waits for changes, each given as "kind name".
func (w *watch) expect(want ...string) (last Change) {
	w.Helper()
	for _, want := range want {
		select {
		case last = <-w.changes:
			if got := string(last.Kind) + " " + last.Container.Name; got != want {
				w.Fatalf("got %q, want %q", got, want)
			}
			if last.Time.IsZero() {
				w.Errorf("%s: no time", want)
			}
		case <-time.After(10 * time.Second):
			w.Fatalf("%q did not come", want)
		}
	}
	return last
}

// expectAll waits for changes that may come in any order, but for those of one
// container.
func (w *watch) expectAll(want ...string) {
	w.Helper()
	kinds := func(list []string) map[string][]string {
		by := make(map[string][]string)
		for _, change := range list {
			kind, name, _ := strings.Cut(change, " ")
			by[name] = append(by[name], kind)
		}
		return by
	}
	var got []string
	for range want {
		select {
		case c := <-w.changes:
			got = append(got, string(c.Kind)+" "+c.Container.Name)
		case <-time.After(10 * time.Second):
			w.Fatalf("of %q came %q", want, got)
		}
	}
	if !reflect.DeepEqual(kinds(got), kinds(want)) {
		w.Fatalf("got %q, want %q", got, want)
	}
}

// quiet checks that all events so far were handled without a change: an event
// that makes one is behind them.
func (w *watch) quiet() {
	w.Helper()
	marker := Details{ID: id("7"), Name: "marker", State: StateCreated}
	w.engine.set(func(m map[string]Details) { m[marker.ID] = marker })
	w.engine.send(marker.ID, "create", time.Now())
	w.expect("found marker")
	w.engine.set(func(m map[string]Details) { delete(m, marker.ID) })
	w.engine.send(marker.ID, "destroy", time.Now())
	w.expect("removed marker")
}

func created(digit, name string) Details {
	return Details{ID: id(digit), Name: name, State: StateCreated, Driver: "vfs"}
}

func runs(d Details, pid int, started time.Time) Details {
	d.State, d.PID, d.StartedAt = StateRunning, pid, started
	return d
}

func exited(d Details) Details {
	d.State, d.PID = StateExited, 0
	return d
}

func TestWatchLife(t *testing.T) {
	base := time.Now()
	at := func(ms int) time.Time { return base.Add(time.Duration(ms) * time.Millisecond) }
	e := newFakeEngine(runs(created("1", "old"), 50, at(-1000)), created("2", "other"))
	w := newWatch(t, e, 0, Selection{All: true})
	w.expectAll("found old", "found other")
	<-w.synced

	d := created("3", "new")
	put := func(d Details) { e.set(func(m map[string]Details) { m[d.ID] = d }) }
	put(d)
	e.send(d.ID, "create", at(0))
	if c := w.expect("found new"); c.Container.Running() || !c.Time.Equal(at(0)) {
		t.Errorf("%+v", c)
	}
	d = runs(d, 60, at(10))
	put(d)
	e.send(d.ID, "start", at(11))
	if c := w.expect("started new"); c.Container.InitPID != 60 || !c.Time.Equal(at(11)) {
		t.Errorf("%+v", c)
	}
	e.send(d.ID, "start", at(11)) // told twice
	e.send(d.ID, "exec_start: sh", at(12))
	e.send(d.ID, "die", at(5)) // of an earlier life
	e.send(id("4"), "die", at(5))
	e.send(id("4"), "destroy", at(5))
	w.quiet()

	d.Name = "renamed"
	put(d)
	e.send(d.ID, "rename", at(20))
	if c := w.expect("renamed renamed"); c.OldName != "new" {
		t.Errorf("%+v", c)
	}
	put(exited(d))
	e.send(d.ID, "die", at(30))
	if c := w.expect("stopped renamed"); c.Container.Running() || c.Container.State != StateExited {
		t.Errorf("%+v", c)
	}
	// It starts and ends before it is looked at.
	d.StartedAt = at(40)
	put(exited(d))
	e.send(d.ID, "start", at(41))
	e.send(d.ID, "die", at(42))
	w.expect("started renamed", "stopped renamed")
	// A restart that is over when its first event is handled.
	put(runs(d, 70, at(50)))
	e.send(d.ID, "start", at(51))
	w.expect("started renamed")
	put(runs(d, 80, at(60)))
	e.send(d.ID, "die", at(59))
	e.send(d.ID, "start", at(61))
	w.expect("stopped renamed")
	if c := w.expect("started renamed"); c.Container.InitPID != 80 {
		t.Errorf("%+v", c)
	}
	// Its end is not told.
	put(runs(d, 90, at(70)))
	e.send(d.ID, "start", at(71))
	w.expect("stopped renamed", "started renamed")
	// Removed while it runs; the facts stay.
	e.set(func(m map[string]Details) { delete(m, d.ID) })
	e.send(d.ID, "die", at(80))
	e.send(d.ID, "destroy", at(81))
	w.expect("stopped renamed")
	if c := w.expect("removed renamed"); c.Container.ID != d.ID || c.Container.Running() {
		t.Errorf("%+v", c)
	}
	if c, ok := w.r.Known(d.ID); !ok || c.Name != "renamed" {
		t.Errorf("%+v", c)
	}
	w.quiet()
}

// docker run --rm of a command that is done when its start is told.
func TestWatchShortLife(t *testing.T) {
	e := newFakeEngine()
	w := newWatch(t, e, 0, Selection{All: true})
	<-w.synced
	d := created("3", "short")
	e.set(func(m map[string]Details) { m[d.ID] = d })
	e.send(d.ID, "create", time.Now())
	w.expect("found short")
	e.set(func(m map[string]Details) { clear(m) })
	e.send(d.ID, "start", time.Now())
	e.send(d.ID, "die", time.Now())
	e.send(d.ID, "destroy", time.Now())
	w.expect("started short", "stopped short", "removed short")
	w.quiet()
}

// Containers that are gone when they are looked at are known by their events.
func TestWatchVanished(t *testing.T) {
	e := newFakeEngine()
	w := newWatch(t, e, 0, Selection{Refs: []string{"gone", "marker"}})
	<-w.synced
	at := time.Now()
	for _, name := range []string{"other", "gone"} {
		for i, action := range []string{"create", "start", "die", "destroy"} {
			e.event(Event{
				ID: id(name[:1]), Action: action, Time: at.Add(time.Duration(i) * time.Millisecond), Name: name, Image: "i:1",
			})
		}
	}
	c := w.expect("found gone").Container
	if c.ID != id("g") || c.Image != "i:1" || !errors.Is(c.LayerErr, ErrVanished) || c.Running() {
		t.Errorf("%+v", c)
	}
	w.expect("started gone", "stopped gone", "removed gone")
	w.quiet()
}

// While the runtime starts a container it tells nothing of it; where its layer is
// can be known all the same.
func TestWatchLockedContainer(t *testing.T) {
	e := newFakeEngine()
	w := newWatch(t, e, 0, Selection{All: true})
	<-w.synced
	d := created("1", "c")
	d.Driver = "overlay2"
	upper := w.dir("upper")
	d.DriverData = map[string]string{"UpperDir": upper}
	hold := make(chan struct{})
	e.slow(d.ID, hold)
	base := time.Now()
	e.set(func(m map[string]Details) { m[d.ID] = runs(d, 10, base.Add(time.Millisecond)) })
	e.event(Event{
		ID: d.ID, Action: "create", Time: base, Runtime: "docker", Name: "c", Image: "i:1", Driver: "overlay2", UpperDir: upper,
	})
	c := w.expect("found c").Container
	if c.Runtime != "docker" || c.UpperDir != upper || c.UpperInode != inode(t, upper) || c.LayerErr != nil || c.Image != "i:1" || c.Running() {
		t.Errorf("%+v", c)
	}
	e.event(Event{ID: d.ID, Action: "start", Time: base.Add(2 * time.Millisecond), Name: "c"})
	close(hold)
	if c := w.expect("started c").Container; c.InitPID != 10 {
		t.Errorf("%+v", c)
	}
	w.quiet()

	// With the containerd store the mount will tell.
	e.slow(id("2"), make(chan struct{}))
	e.event(Event{ID: id("2"), Action: "create", Time: base, Name: "d", Driver: "overlayfs"})
	if c := w.expect("found d").Container; !errors.Is(c.LayerErr, errNotMounted) {
		t.Errorf("%+v", c)
	}
	// Removed already: only events tell of it.
	e.event(Event{ID: id("3"), Action: "create", Time: base, Name: "e", Driver: "overlay2", UpperDir: upper + "/none"})
	if c := w.expect("found e").Container; !errors.Is(c.LayerErr, ErrVanished) {
		t.Errorf("%+v", c)
	}
}

// What came before its end was told does not bring a container back.
func TestWatchOldNews(t *testing.T) {
	base := time.Now().Add(-time.Minute)
	e := newFakeEngine(runs(created("1", "c"), 10, base))
	w := newWatch(t, e, 0, Selection{All: true})
	w.expect("found c")
	<-w.synced
	e.set(func(m map[string]Details) { clear(m) })
	e.send(id("1"), "destroy", time.Now())
	w.expect("stopped c", "removed c")
	e.send(id("1"), "start", base)
	w.quiet()
}

// Two lives of a container, and a third that goes on, before it is looked at.
func TestWatchLivesTogether(t *testing.T) {
	base := time.Now()
	at := func(ms int) time.Time { return base.Add(time.Duration(ms) * time.Millisecond) }
	e := newFakeEngine()
	w := newWatch(t, e, 0, Selection{All: true})
	<-w.synced
	d := runs(created("1", "c"), 30, at(50))
	e.set(func(m map[string]Details) { m[d.ID] = d })
	e.mu.Lock() // nobody looks before all are there
	for i, action := range []string{"create", "start", "die", "start", "die", "start"} {
		e.stream <- Event{ID: d.ID, Action: action, Time: at(1 + 10*i), Name: "c"}
	}
	e.mu.Unlock()
	w.expect("found c", "started c", "stopped c", "started c", "stopped c", "started c")
	// One that nobody announced, and which is over.
	d.StartedAt = at(100)
	e.set(func(m map[string]Details) { m[d.ID] = exited(d) })
	e.send(d.ID, "pause", at(90))
	w.expect("stopped c")
	d.StartedAt = at(200)
	e.set(func(m map[string]Details) { m[d.ID] = exited(d) })
	e.send(d.ID, "pause", at(90))
	w.expect("started c", "stopped c")
	w.quiet()
}

// A look that takes long keeps nobody else waiting, and what happens meanwhile is
// told after it.
func TestWatchSlowLook(t *testing.T) {
	e := newFakeEngine(created("1", "slow"), created("2", "quick"))
	hold := make(chan struct{})
	w := newWatch(t, e, 0, Selection{All: true})
	w.expectAll("found slow", "found quick")
	<-w.synced
	e.slow(id("1"), hold)
	base := time.Now()
	e.set(func(m map[string]Details) {
		m[id("1")] = runs(m[id("1")], 10, base)
		m[id("2")] = runs(m[id("2")], 20, base)
	})
	e.send(id("1"), "start", base)
	e.send(id("2"), "start", base)
	w.expect("started quick")
	e.set(func(m map[string]Details) { m[id("1")] = exited(m[id("1")]) })
	e.send(id("1"), "die", time.Now())
	w.quiet()
	close(hold)
	w.expect("started slow", "stopped slow")
	w.quiet()
}

// A runtime whose answers make no sense for a while: what begins meanwhile is known
// by its events, and by more once it can be.
func TestWatchGarbage(t *testing.T) {
	e := newFakeEngine()
	w := newWatch(t, e, 0, Selection{All: true})
	<-w.synced
	upper := w.dir("upper")
	d := created("1", "c")
	d.Driver, d.DriverData = "overlay2", map[string]string{"UpperDir": upper}
	e.set(func(m map[string]Details) { m[d.ID] = d })
	e.refuse(d.ID, errors.New("invalid character"))
	e.event(Event{ID: d.ID, Action: "create", Time: time.Now(), Name: "c"})
	if c := w.expect("found c").Container; c.LayerErr == nil {
		t.Errorf("%+v", c)
	}
	e.event(Event{ID: d.ID, Action: "start", Time: time.Now(), Name: "c"})
	w.expect("started c")
	e.refuse(d.ID, nil)
	if c := w.expect("layer_known c").Container; c.LayerErr != nil || c.UpperDir != upper {
		t.Errorf("%+v", c)
	}
	// Once is nothing to tell of.
	w.expect("stopped c")
	warned := strings.Count(w.log.text(), `"level":"warn"`)
	e.failOnce(fmt.Errorf("cut off: %w", ErrUnreachable))
	e.set(func(m map[string]Details) { m[d.ID] = runs(d, 10, time.Now()) })
	e.send(d.ID, "start", time.Now())
	w.expect("started c")
	if log := w.log.text(); strings.Count(log, `"level":"warn"`) != warned || !strings.Contains(log, "cut off") {
		t.Errorf("log:\n%s", log)
	}
	if n := e.subscriptions(); n != 1 {
		t.Errorf("%d subscriptions", n)
	}
}

// One list that does not come is nothing while events come; two are.
func TestWatchUnlisted(t *testing.T) {
	e := newFakeEngine(created("1", "c"))
	w := newWatch(t, e, 20*time.Millisecond, Selection{All: true})
	w.expect("found c")
	<-w.synced
	fail := func(lists int) {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.unlisted = lists * looksAtMost
	}
	fail(1)
	e.set(func(m map[string]Details) { m[id("1")] = runs(m[id("1")], 10, time.Now()) })
	w.expect("started c") // by the next one
	if log := w.log.text(); e.subscriptions() != 1 || strings.Contains(log, `"warn"`) || !strings.Contains(log, "containers not listed") {
		t.Errorf("%d subscriptions, log:\n%s", e.subscriptions(), log)
	}
	fail(2)
	e.set(func(m map[string]Details) { clear(m) })
	w.expect("stopped c", "removed c")
	if n := e.subscriptions(); n != 2 {
		t.Errorf("%d subscriptions", n)
	}
}

// What was announced before the runtime went away is told, with it or without.
func TestWatchAnnouncedBefore(t *testing.T) {
	e := newFakeEngine()
	w := newWatch(t, e, 0, Selection{All: true})
	<-w.synced
	e.mu.Lock()
	e.down = fmt.Errorf("test: %w", ErrUnreachable)
	for _, action := range []string{"create", "start", "die"} {
		e.stream <- Event{ID: id("1"), Action: action, Time: time.Now(), Name: "c"}
	}
	e.failed <- e.down
	e.mu.Unlock()
	time.Sleep(300 * time.Millisecond) // several tries
	e.comeBack()
	w.expect("found c", "started c", "stopped c")
	// Its removal was not announced.
	e.hangUp()
	e.comeBack()
	w.expect("removed c")
}

func TestWatchSelection(t *testing.T) {
	e := newFakeEngine(created("1", "my-api"), created("2", "db"), created("a", "cafe"))
	w := newWatch(t, e, 0, Selection{Refs: []string{"/my-api", id("b"), id("c")[:12], "aaaa", "marker", "later"}})
	w.expect("found my-api")
	<-w.synced
	put := func(d Details) {
		e.set(func(m map[string]Details) { m[d.ID] = d })
		e.send(d.ID, "create", time.Now())
	}
	put(created("b", "by-id"))
	put(created("c", "by-prefix"))
	put(created("d", "nobody"))
	w.expectAll("found by-id", "found by-prefix")
	// Created anew under its name.
	e.set(func(m map[string]Details) { delete(m, id("1")) })
	e.send(id("1"), "destroy", time.Now())
	put(created("5", "my-api"))
	w.expectAll("removed my-api", "found my-api")
	// Gets a name that is selected, then one that is not.
	rename := func(name string) {
		d := created("2", name)
		e.set(func(m map[string]Details) { m[d.ID] = d })
		e.send(d.ID, "rename", time.Now())
	}
	rename("later")
	w.expect("found later")
	rename("else")
	w.expect("renamed else")
	w.quiet()
	if err := w.r.Watch(t.Context(), Selection{}, nil); err == nil {
		t.Error("nothing selected: no error")
	}
}

func TestWatchReconnect(t *testing.T) {
	base := time.Now().Add(-time.Minute)
	e := newFakeEngine(
		runs(created("1", "stays"), 10, base),
		runs(created("2", "ends"), 20, base),
		runs(created("3", "again"), 30, base),
		runs(created("4", "vanishes"), 40, base),
		created("5", "starts"),
	)
	e.inspectErr[id("6")] = fmt.Errorf("one that can not be inspected")
	e.containers[id("6")] = created("6", "odd")
	w := newWatch(t, e, 0, Selection{All: true})
	w.expectAll("found stays", "found ends", "found again", "found vanishes", "found starts")
	<-w.synced
	e.hangUp()
	time.Sleep(350 * time.Millisecond) // several tries
	e.set(func(m map[string]Details) {
		m[id("2")] = exited(m[id("2")])
		m[id("3")] = runs(m[id("3")], 31, base.Add(time.Second))
		delete(m, id("4"))
		d := runs(m[id("5")], 50, base.Add(time.Second))
		d.Name = "renamed"
		m[id("5")] = d
		m[id("8")] = created("8", "new")
	})
	e.comeBack()
	w.expectAll("stopped ends", "stopped again", "started again", "renamed renamed", "started renamed",
		"found new", "stopped vanishes", "removed vanishes")
	w.quiet()
	w.end()
	log := w.log.text()
	for _, line := range []string{"trying again", "container runtime is back", "not inspected"} {
		if n := strings.Count(log, line); n != 1 {
			t.Errorf("%q was logged %d times:\n%s", line, n, log)
		}
	}
	if e.subscribed > 10 {
		t.Errorf("%d subscriptions", e.subscribed)
	}
}

// Events that came before the runtime went away are not lost.
func TestWatchDrains(t *testing.T) {
	e := newFakeEngine(runs(created("1", "c"), 10, time.Now().Add(-time.Minute)))
	w := newWatch(t, e, 0, Selection{All: true})
	w.expect("found c")
	<-w.synced
	e.mu.Lock()
	delete(e.containers, id("1"))
	e.stream <- Event{ID: id("1"), Action: "destroy", Time: time.Now()}
	e.failed <- os.ErrClosed
	e.mu.Unlock()
	w.expect("stopped c", "removed c")
}

func TestWatchUnreachableAtFirst(t *testing.T) {
	e := newFakeEngine(created("1", "c"))
	e.down = fmt.Errorf("test: %w", ErrUnreachable)
	w := newWatch(t, e, 0, Selection{All: true})
	select {
	case <-w.synced:
		t.Error("synced without a runtime")
	case <-time.After(150 * time.Millisecond):
	}
	e.comeBack()
	w.expect("found c")
	<-w.synced
}

// Lost events are made good by comparing, from time to time.
func TestWatchReconciles(t *testing.T) {
	e := newFakeEngine(created("1", "c"))
	w := newWatch(t, e, 20*time.Millisecond, Selection{All: true})
	w.expect("found c")
	e.set(func(m map[string]Details) { m[id("1")] = runs(m[id("1")], 10, time.Now()) })
	w.expect("started c")
	e.set(func(m map[string]Details) { clear(m) })
	w.expect("stopped c", "removed c")
}

// With the containerd store the upper directory is known once it is mounted.
func TestWatchLayerKnown(t *testing.T) {
	d := Details{ID: id("c"), Name: "c", State: StateCreated, Driver: "overlayfs"}
	e := newFakeEngine()
	w := newWatch(t, e, 0, Selection{All: true})
	<-w.synced
	full := w.fixture("host.mountinfo")
	var before []string
	for line := range strings.Lines(full) {
		if !strings.Contains(line, id("c")) {
			before = append(before, line)
		}
	}
	w.file("proc/self/mountinfo", strings.Join(before, ""))
	upper := w.dir("docker/snapshots/9/fs")
	e.set(func(m map[string]Details) { m[d.ID] = d })
	e.send(d.ID, "create", time.Now())
	if c := w.expect("found c").Container; c.LayerErr == nil || c.UpperDir != "" {
		t.Errorf("%+v", c)
	}

	w.file("proc/self/mountinfo", full)
	w.process(4100, "containerd.mountinfo", "/docker/"+id("c"))
	e.set(func(m map[string]Details) { m[d.ID] = runs(d, 4100, time.Now()) })
	e.send(d.ID, "start", time.Now())
	if c := w.expect("layer_known c").Container; c.LayerErr != nil || c.UpperDir != upper {
		t.Errorf("%+v", c)
	}
	w.expect("started c")

	// By the host's mount alone, without any event.
	s := watcher{Resolver: w.r, tracked: map[string]*tracked{}, report: func(c Change) { w.changes <- c }}
	s.tracked[d.ID] = &tracked{Container: Container{ID: d.ID, Name: "c", Driver: "overlayfs", LayerErr: os.ErrNotExist}}
	s.findLayers(t.Context())
	if c := w.expect("layer_known c").Container; c.LayerErr != nil || c.UpperDir != upper || c.OverlayDevice != 61 {
		t.Errorf("%+v", c)
	}
	s.findLayers(t.Context()) // nothing more to find
	w.quiet()
}

// TestWatchForgetsOthers: of containers that are not watched no more are remembered after
// their end than of others.
func TestWatchForgetsOthers(t *testing.T) {
	e := newFakeEngine()
	w := newWatch(t, e, time.Hour, Selection{Refs: []string{"mine"}})
	<-w.synced
	until := func(n int, reached func(remembered int) bool) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			w.r.mu.Lock()
			remembered := len(w.r.containers)
			w.r.mu.Unlock()
			if reached(remembered) {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%d containers are remembered, want %d", remembered, n)
			}
		}
	}
	const others = maxRemoved + 50
	name := func(i int) string { return fmt.Sprintf("%064x", i+1) }
	for i := range others {
		e.set(func(m map[string]Details) {
			m[name(i)] = Details{ID: name(i), Name: fmt.Sprint("other", i), State: StateCreated, Driver: "vfs"}
		})
		e.send(name(i), "create", time.Now())
	}
	until(others, func(n int) bool { return n == others })
	for i := range others {
		e.set(func(m map[string]Details) { delete(m, name(i)) })
		e.send(name(i), "destroy", time.Now())
	}
	until(maxRemoved, func(n int) bool { return n <= maxRemoved })
}
