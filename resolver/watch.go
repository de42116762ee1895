package resolver

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

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
// returns nil. It calls fn one change at a time, those of one container in the order
// in which they happened; while fn runs, further changes wait. Those that a container
// goes through while the runtime can not be reached, or is too busy to tell, are
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
		looks: newLooks(looksAtOnce, r.look),
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
	groups := make(chan struct{})
	go func() {
		defer close(groups)
		if err := r.groups.follow(ctx); err != nil {
			r.log.Debug().Err(err).Msg("new control groups are not noticed")
		}
	}()
	w.run(ctx, mounted)
	cancel()
	<-done
	<-groups
	return nil
}

// watcher is the state of one Watch.
type watcher struct {
	*Resolver
	sel     Selection
	report  func(Change)
	tracked map[string]*tracked
	looks   *looks
	// refused are containers of which the runtime could not tell, and whether that
	// was said. They are asked about again after retryPause.
	refused    map[string]bool
	retry      <-chan time.Time
	retryPause time.Duration
	// open are the containers that the first list of a subscription had and that
	// were not looked at yet; nil if it did not come yet.
	open map[string]struct{}
	// unlisted is how many lists in a row did not come.
	unlisted int
	synced   bool
	there    bool // all of the subscription's first list was compared
	away     bool // the runtime is, and that was logged
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
		switch {
		case ctx.Err() != nil:
			return
		case w.there:
			// It may be a hiccup: the next try tells.
			w.there = false
			w.log.Debug().Err(err).Msg("subscription to the container runtime's events ended")
		case !w.away:
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

// list is the runtime's list of containers.
type list struct {
	listed []Listed
	err    error
	full   bool // to be compared in detail
	// before are the containers that were tracked before the runtime was asked.
	before []string
}

// follow subscribes, catches up, and reports changes until something fails.
func (w *watcher) follow(ctx context.Context, mounted <-chan struct{}) error {
	ctx, cancel := context.WithCancel(ctx)
	w.open = nil
	defer w.looks.abandon()
	defer cancel()
	events, failed := w.engine.Events(ctx)
	select {
	case err := <-failed:
		return err
	default:
	}
	// The runtime's history of events is short and ends with the runtime itself:
	// only a comparison tells what happened before the subscription.
	lists := w.list(ctx, true)
	ticker := time.NewTicker(w.reconcileEvery)
	defer ticker.Stop()
	for {
		w.catchUp()
		w.look(ctx)
		var err error
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err = <-failed:
			w.drain(ctx, events)
		case e := <-events:
			w.note(ctx, e)
		case a := <-w.looks.answers:
			err = w.answered(a)
		case l := <-lists:
			lists = nil
			err = w.reconcile(l)
		case <-ticker.C:
			if lists == nil {
				lists = w.list(ctx, false)
			}
		case <-w.retry:
			w.askAgain()
		case <-mounted:
			w.findLayers(ctx)
		}
		if err != nil {
			return err
		}
	}
}

// list asks the runtime for its list, without waiting.
func (w *watcher) list(ctx context.Context, full bool) <-chan list {
	answer := make(chan list, 1)
	before := slices.Sorted(maps.Keys(w.tracked))
	w.looks.group.Go(func() {
		l := list{full: full, before: before}
		l.err = w.insist(ctx, func() (err error) {
			l.listed, err = w.engine.List(ctx)
			return err
		})
		answer <- l
	})
	return answer
}

// reconcile has what was reported compared with the runtime's list. Its errors are
// those of the runtime as a whole.
func (w *watcher) reconcile(l list) error {
	if l.err != nil {
		// Once is nothing while events come.
		if w.unlisted++; l.full || w.unlisted > 1 {
			return l.err
		}
		w.log.Debug().Err(l.err).Msg("containers not listed")
		return nil
	}
	w.unlisted = 0
	if w.away {
		w.away = false
		w.log.Warn().Msg("container runtime is back")
	}
	present := make(map[string]bool, len(l.listed))
	if l.full {
		w.open = make(map[string]struct{})
	}
	for _, c := range l.listed {
		present[c.ID] = true
		t := w.tracked[c.ID]
		switch {
		case t == nil && !w.sel.selects(c.ID, c.Name):
			continue
		case t != nil && !l.full && c.Name == t.Name && c.State == t.State:
			continue
		}
		w.looks.add(Event{ID: c.ID, Action: compared})
		if l.full {
			w.open[c.ID] = struct{}{}
		}
	}
	for _, id := range l.before {
		// If it has events that wait, they tell.
		if t := w.tracked[id]; t != nil && !present[id] && !w.looks.busy(id) {
			w.gone(t, time.Now())
		}
	}
	return nil
}

// catchUp notes when all of a subscription's first list was compared.
func (w *watcher) catchUp() {
	if w.open == nil || len(w.open) > 0 || w.there {
		return
	}
	w.there = true
	if !w.synced {
		w.synced = true
		if w.sel.Synced != nil {
			w.sel.Synced()
		}
	}
}

// note takes an event as a hint to look at its container. Events may be older
// than what is known already.
func (w *watcher) note(ctx context.Context, e Event) {
	t, busy := w.tracked[e.ID], w.looks.busy(e.ID)
	switch {
	case busy:
	case e.Action == "create", e.Action == "start", e.Action == "rename":
	case t == nil:
		if e.Action == "destroy" {
			w.retire(e.ID)
		}
		return
	case e.Action == "destroy":
		w.gone(t, e.Time)
		return
	}
	if t == nil && e.Action == "create" && w.sel.selects(e.ID, e.Name) {
		// The runtime keeps a container locked while it starts it, so that the
		// answer may come after the container has done all that it does.
		w.foundByEvent(ctx, e)
	}
	w.looks.add(e)
}

// foundByEvent begins to track a container that was created, if it can be known
// without the runtime where its layer is.
func (w *watcher) foundByEvent(ctx context.Context, e Event) {
	if e.Name == "" {
		return
	}
	c := w.ofEvent(e)
	switch {
	case e.UpperDir != "":
		d := Details{ID: e.ID, Driver: c.Driver, DriverData: map[string]string{"UpperDir": e.UpperDir}}
		if w.findLayer(ctx, &c, d, mountEntry{}, w.readHost(), nil); c.LayerErr != nil {
			return
		}
	case c.Driver == "overlayfs":
		c.LayerErr = errNotMounted // until its mount is noticed, which has its id
	default:
		return
	}
	w.remember(c)
	w.found(c, time.Time{}, e.Time)
}

// ofEvent returns what an event tells of a container.
func (w *watcher) ofEvent(e Event) Container {
	return Container{
		ID: e.ID, Name: e.Name, Image: e.Image, Runtime: e.Runtime, State: StateCreated, CreatedAt: e.Time, Driver: e.Driver,
	}
}

// drain notes the events that came before the subscription ended. What they lead
// to has to wait for the runtime, but for removals.
func (w *watcher) drain(ctx context.Context, events <-chan Event) {
	for {
		select {
		case e := <-events:
			w.note(ctx, e)
		default:
			return
		}
	}
}

// look begins to ask about as many containers as may be asked about.
func (w *watcher) look(ctx context.Context) {
	for {
		id, events := w.looks.start(ctx)
		if id == "" {
			return
		}
		w.handleAll(id, events, nil, nil)
	}
}

// answered handles the events of a container now that the runtime was asked about
// it. Whether the runtime is there as a whole its events and its list tell, not this.
func (w *watcher) answered(a answer) error {
	switch {
	case errors.Is(a.err, context.Canceled):
		w.looks.again(a)
		return a.err
	case a.err != nil:
		w.refuse(a)
	default:
		delete(w.refused, a.id)
		if len(w.refused) == 0 {
			w.retryPause = 0
		}
	}
	w.handleAll(a.id, w.looks.done(a), a.fresh, a.err)
	return nil
}

// refuse notes that the runtime could not tell of a container, which must not keep
// us from the others.
func (w *watcher) refuse(a answer) {
	hungUp := errors.Is(a.err, ErrUnreachable) && !errors.Is(a.err, context.DeadlineExceeded)
	switch {
	case hungUp:
		w.log.Debug().Err(a.err).Str("container", a.id).Msg("container not inspected")
	case !w.refused[a.id]:
		w.log.Warn().Err(a.err).Str("container", a.id).Msg("container not inspected")
	}
	w.refused[a.id] = w.refused[a.id] || !hungUp
	if w.retry == nil {
		w.retryPause = min(max(2*w.retryPause, minPause), w.reconcileEvery)
		w.retry = time.After(w.retryPause)
	}
}

// askAgain asks about those containers once more of which the runtime could not
// tell.
func (w *watcher) askAgain() {
	w.retry = nil
	for _, id := range slices.Sorted(maps.Keys(w.refused)) {
		if !w.looks.busy(id) {
			w.looks.add(Event{ID: id, Action: compared})
		}
	}
}

// handleAll handles a container's events. fresh is how it is now: nil if it is
// gone, or if the runtime could not tell, then refused says why.
func (w *watcher) handleAll(id string, events []Event, fresh *Container, refused error) {
	for _, e := range events {
		w.handle(e, fresh, refused)
	}
	delete(w.open, id)
	if fresh == nil && refused == nil {
		delete(w.refused, id)
	}
}

func (w *watcher) handle(e Event, fresh *Container, refused error) {
	t := w.tracked[e.ID]
	if t == nil {
		if t = w.discover(e, fresh, refused); t == nil {
			if e.Action == "destroy" {
				w.retire(e.ID)
			}
			return
		}
	}
	switch e.Action {
	case "create":
		if fresh != nil { // its start, if there was one, is told by a further event
			started := t.StartedAt
			w.update(t, *fresh)
			t.StartedAt = started
		}
	case "start":
		w.start(t, fresh, e.Time)
	case "die":
		if e.Time.IsZero() || !e.Time.Before(t.StartedAt) {
			w.die(t, fresh, e.Time)
		}
	case "destroy":
		w.gone(t, e.Time)
	default:
		if fresh != nil {
			w.compare(t, *fresh)
		}
	}
}

// discover begins to track the container of an event, if it is selected.
func (w *watcher) discover(e Event, fresh *Container, refused error) *tracked {
	begins := e.Action == "create" || e.Action == "start"
	switch {
	case fresh != nil && w.sel.selects(fresh.ID, fresh.Name):
		if !begins {
			return w.found(*fresh, fresh.StartedAt, e.Time)
		}
	case fresh != nil, !begins, !w.sel.selects(e.ID, e.Name):
		return nil
	default:
		if _, known := w.Known(e.ID); known && refused == nil {
			return nil // its end was told, too
		}
		// All that will ever be known of it, or for now, is in the event.
		c := w.ofEvent(e)
		if c.LayerErr = refused; refused == nil {
			c.LayerErr = ErrVanished
		}
		fresh = &c
	}
	// Its start, if there was one, is told by a further event.
	return w.found(*fresh, time.Time{}, e.Time)
}

// found begins to track a container of which no start after the one at started was
// told.
func (w *watcher) found(c Container, started, at time.Time) *tracked {
	t := &tracked{Container: c, running: c.Running() && started.Equal(c.StartedAt)}
	t.StartedAt = started
	w.tracked[c.ID] = t
	w.emit(Found, c, at)
	return t
}

// start reports a start. The container may have ended since, or be gone (fresh is
// nil), so that only the event tells of its life.
func (w *watcher) start(t *tracked, fresh *Container, at time.Time) {
	if !at.IsZero() && at.Before(t.StartedAt) {
		return // of an earlier life
	}
	if fresh == nil || !at.IsZero() && at.Before(fresh.StartedAt) {
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
	if !t.running && (fresh.Running() || again && !fresh.StartedAt.IsZero()) {
		t.running = true
		w.emit(Started, fresh, now)
		if !fresh.Running() { // and it is over already
			w.stop(t, fresh, now)
		}
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
	c.InitPID, c.CgroupID, c.OverlayDevice, c.rootDevice, c.rootMount = 0, 0, 0, 0, Mount{}
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
		w.findLayer(ctx, &fresh, Details{ID: t.ID, Driver: t.Driver, Within: t.within}, mountEntry{}, host, nil)
		if fresh.LayerErr == nil {
			w.remember(fresh)
			w.update(t, fresh)
		}
	}
}
