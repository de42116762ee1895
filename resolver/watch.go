package resolver

import (
	"context"
	"errors"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/internal/record"
)

const (
	minPause = 100 * time.Millisecond // before the first new try to reach the runtime
	maxPause = 5 * time.Second        // between later ones
	// shortID is the length from which on an id's beginning selects containers
	// that do not exist yet: db is a name rather than an id.
	shortID = 12
)

// ChangeKind says what happened to a container.
type ChangeKind string

// Kinds of changes. All but LayerKnown are the stream's container events.
const (
	// Found: the container is selected and seen for the first time, because it
	// existed when Watch began or was created since. If it runs already,
	// Started does not follow.
	Found ChangeKind = record.ContainerFound
	// Started: it has a new init process, which may have ended already.
	Started ChangeKind = record.ContainerStarted
	// Stopped: its init process has ended.
	Stopped ChangeKind = record.ContainerStopped
	// Renamed: its name changed; OldName is the former one.
	Renamed ChangeKind = record.ContainerRenamed
	// Removed: it is gone, and its layer with it. Container has the last known
	// facts. If it still ran, Stopped came before.
	Removed ChangeKind = record.ContainerRemoved
	// LayerKnown: its upper directory became known, or is another one now. With
	// the containerd image store this comes between Found and Started: when
	// the root is mounted, before the container's first instruction. Where the
	// directory is known when the container is found, LayerKnown does not come.
	LayerKnown ChangeKind = "layer_known"
)

// Change is a change in a container's life.
type Change struct {
	Kind      ChangeKind
	Time      time.Time
	Container Container // facts after the change
	OldName   string    // of Renamed only
}

// Selection says which containers Watch reports.
type Selection struct {
	// All selects every container of the runtime, future ones included.
	All bool
	// Refs selects containers by name, id, or the first 12 or more digits of an
	// id. They need not exist yet. A name selects every container that ever has
	// it, so that a service which is created anew under its old name is
	// followed. What was selected once stays so under another name.
	Refs []string
	// Synced, if set, is called once, by Watch, when it has subscribed to the
	// runtime's events and has reported the containers that exist.
	Synced func()
}

func (s *Selection) selects(id, name string) bool {
	if s.All {
		return true
	}
	for _, ref := range s.Refs {
		if strings.TrimPrefix(ref, "/") == name && name != "" ||
			len(ref) >= shortID && strings.HasPrefix(id, ref) {
			return true
		}
	}
	return false
}

// Watch reports changes of the selected containers to fn until ctx ends, then it
// returns nil. It calls fn one change at a time, in the order in which they
// happened; while fn runs, further changes wait. Those that a container goes
// through while the runtime can not be reached, or is too busy to tell, are
// reported as far as they matter afterwards.
//
// When the runtime goes away Watch logs that once, tries to reach it with growing
// pauses, and logs once that it is back. So it does not fail because of the
// runtime, not at the beginning either: whoever wants to know asks Find before.
// It fails only if sel selects nothing.
func (r *Resolver) Watch(ctx context.Context, sel Selection, fn func(Change)) error {
	if !sel.All && len(sel.Refs) == 0 {
		return errors.New("watching containers: none selected")
	}
	w := watcher{
		Resolver: r, sel: sel, report: fn,
		tracked: make(map[string]*tracked), refused: make(map[string]bool),
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan struct{})
	mounted := make(chan struct{}, 1)
	go func() {
		defer close(done)
		if err := watchMounts(ctx, r.hostMounts(), mounted); err != nil {
			r.log.Debug().Err(err).Msg("new mounts are not noticed")
		}
	}()
	w.run(ctx, mounted)
	cancel()
	<-done
	return nil
}

// watcher is the state of one Watch.
type watcher struct {
	*Resolver
	sel     Selection
	report  func(Change)
	tracked map[string]*tracked
	refused map[string]bool // containers of which the runtime can not tell, logged once
	synced  bool
	away    bool // the runtime is, and that was logged
}

// tracked is a selected container as it was last reported.
type tracked struct {
	Container
	running bool
}

// run follows the runtime's events, with a new subscription whenever one ends.
func (w *watcher) run(ctx context.Context, mounted <-chan struct{}) {
	pause := minPause
	for {
		began := time.Now()
		err := w.follow(ctx, mounted)
		if ctx.Err() != nil {
			return
		}
		if !w.away {
			w.away = true
			w.log.Warn().Err(err).Msg("container runtime unreachable, trying again")
		}
		if time.Since(began) > maxPause {
			pause = minPause
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		pause = min(2*pause, maxPause)
	}
}

// follow subscribes, catches up, and reports changes until something fails.
func (w *watcher) follow(ctx context.Context, mounted <-chan struct{}) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events, failed := w.engine.Events(ctx)
	select {
	case err := <-failed:
		return err
	default:
	}
	// The runtime's history of events is short and ends with the runtime itself:
	// only a comparison tells what happened before the subscription.
	if err := w.reconcile(ctx, true); err != nil {
		return err
	}
	if w.away {
		w.away = false
		w.log.Info().Msg("container runtime is back")
	}
	if !w.synced {
		w.synced = true
		if w.sel.Synced != nil {
			w.sel.Synced()
		}
	}
	ticker := time.NewTicker(w.reconcileEvery)
	defer ticker.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err = <-failed:
			w.drain(ctx, events)
		case e := <-events:
			err = w.handle(ctx, e)
		case <-ticker.C:
			err = w.reconcile(ctx, false)
		case <-mounted:
			w.findLayers(ctx)
		}
		if err != nil {
			return err
		}
	}
}

// drain handles the events that came before the subscription ended.
func (w *watcher) drain(ctx context.Context, events <-chan Event) {
	for {
		select {
		case e := <-events:
			if err := w.handle(ctx, e); err != nil {
				w.log.Debug().Err(err).Str("container", e.ID).Msg("event of a runtime that is gone")
			}
		default:
			return
		}
	}
}

// reconcile compares what was reported with the runtime's list, in detail if
// full is set. Its errors are those of the runtime as a whole.
func (w *watcher) reconcile(ctx context.Context, full bool) error {
	listed, err := w.engine.List(ctx)
	if err != nil {
		return err
	}
	host := w.readHost()
	present := make(map[string]bool, len(listed))
	for _, l := range listed {
		present[l.ID] = true
		t := w.tracked[l.ID]
		switch {
		case t == nil && !w.sel.selects(l.ID, l.Name):
			continue
		case t != nil && !full && l.Name == t.Name && l.State == t.State:
			continue
		}
		fresh, err := w.look(ctx, l.ID, host)
		switch {
		case err != nil:
			return err
		case fresh == nil: // gone since it was listed: its event comes
		case t == nil:
			w.found(*fresh, time.Now())
		default:
			w.compare(t, *fresh)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(w.tracked)) {
		if !present[id] {
			w.gone(w.tracked[id], time.Now())
		}
	}
	return nil
}

// look inspects a container; nil if it is gone.
func (w *watcher) look(ctx context.Context, id string, host func() mountTable) (*Container, error) {
	c, err := w.inspect(ctx, id, host)
	var gone *NotFoundError
	switch {
	case errors.As(err, &gone):
		return nil, nil
	case errors.Is(err, ErrUnreachable), ctx.Err() != nil:
		return nil, err
	case err != nil:
		// A runtime that can not tell of one container must not keep us from
		// the others.
		if !w.refused[id] {
			w.refused[id] = true
			w.log.Warn().Err(err).Str("container", id).Msg("container not inspected")
		}
		return nil, nil
	}
	return &c, nil
}

// handle takes an event as a hint to look at its container. Events may be older
// than what is known already.
func (w *watcher) handle(ctx context.Context, e Event) error {
	t := w.tracked[e.ID]
	switch e.Action {
	case "destroy":
		if t != nil {
			w.gone(t, e.Time)
		}
		return nil
	case "create", "start", "rename":
	case "die":
		stale := t != nil && !e.Time.IsZero() && e.Time.Before(t.StartedAt)
		if t == nil || stale {
			return nil
		}
	default:
		if t == nil {
			return nil
		}
	}
	fresh, err := w.look(ctx, e.ID, w.readHost())
	if err != nil {
		return err
	}
	if t == nil {
		if fresh != nil && w.sel.selects(fresh.ID, fresh.Name) {
			w.found(*fresh, e.Time)
		}
		return nil
	}
	switch e.Action {
	case "start":
		w.start(t, fresh, e.Time)
	case "die":
		w.die(t, fresh, e.Time)
	default:
		if fresh != nil {
			w.compare(t, *fresh)
		}
	}
	return nil
}

// found begins to track a container.
func (w *watcher) found(c Container, at time.Time) {
	w.tracked[c.ID] = &tracked{Container: c, running: c.Running()}
	w.emit(Found, c, at)
}

// start reports a start. The container may have ended since, or be gone (fresh is
// nil), so that only the event tells of its life.
func (w *watcher) start(t *tracked, fresh *Container, at time.Time) {
	if fresh == nil {
		if !t.running {
			t.running = true
			w.emit(Started, t.Container, at)
		}
		return
	}
	again := !fresh.StartedAt.Equal(t.StartedAt)
	switch {
	case t.running && again:
		w.stop(t, ended(t.Container), at)
	case t.running, !again && !fresh.Running():
		w.update(t, *fresh) // nothing new
		return
	}
	w.update(t, *fresh)
	t.running = true
	w.emit(Started, t.Container, at)
}

// die reports the end of the init process.
func (w *watcher) die(t *tracked, fresh *Container, at time.Time) {
	switch {
	case fresh == nil || fresh.Running():
		// Gone, or running again: then its start will be told.
		if t.running {
			w.stop(t, ended(t.Container), at)
		}
	case t.running:
		w.stop(t, *fresh, at)
	default:
		w.update(t, *fresh)
	}
}

// compare reports what changed, whatever the order in which it did.
func (w *watcher) compare(t *tracked, fresh Container) {
	now := time.Now()
	again := !fresh.StartedAt.Equal(t.StartedAt)
	if t.running && !fresh.Running() {
		w.stop(t, fresh, now)
		return
	}
	if t.running && again {
		w.stop(t, ended(t.Container), now)
	}
	w.update(t, fresh)
	if fresh.Running() && !t.running {
		t.running = true
		w.emit(Started, fresh, now)
	}
}

// gone reports that a container was removed, and ceases to track it.
func (w *watcher) gone(t *tracked, at time.Time) {
	last := ended(t.Container)
	if t.running {
		w.stop(t, last, at)
	}
	delete(w.tracked, t.ID)
	w.remember(last)
	w.retire(t.ID)
	w.emit(Removed, last, at)
}

func (w *watcher) stop(t *tracked, facts Container, at time.Time) {
	w.update(t, facts)
	t.running = false
	w.emit(Stopped, t.Container, at)
}

// ended returns a container's facts as they are once it has ended.
func ended(c Container) Container {
	if c.Running() {
		c.State = StateExited
	}
	c.InitPID, c.CgroupID, c.OverlayDevice, c.rootDevice = 0, 0, 0, 0
	return c
}

// update takes over facts, and reports a new name and a new layer.
func (w *watcher) update(t *tracked, fresh Container) {
	before := t.Container
	t.Container = fresh
	if fresh.Name != before.Name {
		w.report(Change{Kind: Renamed, Time: time.Now(), Container: fresh, OldName: before.Name})
	}
	same := fresh.UpperDir == before.UpperDir && fresh.UpperInode == before.UpperInode &&
		fresh.UpperDevice == before.UpperDevice
	if fresh.LayerErr == nil && (before.LayerErr != nil || !same) {
		w.emit(LayerKnown, fresh, time.Now())
	}
}

func (w *watcher) emit(kind ChangeKind, c Container, at time.Time) {
	if at.IsZero() {
		at = time.Now()
	}
	w.report(Change{Kind: kind, Time: at, Container: c})
}

// findLayers looks for the layers that are not known yet, now that something was
// mounted.
func (w *watcher) findLayers(ctx context.Context) {
	host := w.readHost()
	for _, t := range w.tracked {
		if t.LayerErr == nil || errors.Is(t.LayerErr, ErrNoUpperDir) {
			continue
		}
		if _, ok := overlayOf(host(), t.ID, ""); !ok {
			continue
		}
		fresh := t.Container
		fresh.UpperDir, fresh.LayerErr = "", nil
		w.findLayer(ctx, &fresh, Details{ID: t.ID, Driver: t.Driver}, mountEntry{}, host, nil)
		if fresh.LayerErr == nil {
			w.remember(fresh)
			w.update(t, fresh)
		}
	}
}

// watchMounts sends to changed, without waiting, whenever the mount table of a
// mountinfo file may have changed. It returns when ctx ends.
func watchMounts(ctx context.Context, file string, changed chan<- struct{}) error {
	table, err := os.Open(file)
	if err != nil {
		return err
	}
	defer table.Close()
	wake, waker, err := os.Pipe()
	if err != nil {
		return err
	}
	defer wake.Close()
	stop := context.AfterFunc(ctx, func() { waker.Close() })
	defer func() {
		if stop() {
			waker.Close()
		}
	}()
	// Fd makes the descriptors blocking, which poll does not mind.
	fds := []unix.PollFd{
		{Fd: int32(table.Fd()), Events: unix.POLLPRI},
		{Fd: int32(wake.Fd()), Events: unix.POLLIN},
	}
	for ctx.Err() == nil {
		if _, err := unix.Poll(fds, -1); err != nil && err != unix.EINTR {
			return err
		}
		if fds[0].Revents != 0 {
			select {
			case changed <- struct{}{}:
			default:
			}
			// Mounts come in bursts.
			time.Sleep(time.Millisecond)
		}
	}
	return nil
}
