package session

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/internal/record"
	"github.com/layertrace/layertrace/resolver"
	"github.com/layertrace/layertrace/tracer"
	"github.com/layertrace/layertrace/tracer/event"
)

// watched is a container of the run. It stays one while it is stopped, since its
// layer stays, and ends with its removal.
type watched struct {
	facts   resolver.Container
	layer   event.LayerID // 0 as long as its upper directory is not known
	upper   upper
	seeded  bool   // its baseline is in the books
	mounted bool   // as the kernel side saw it last
	cgroup  uint64 // watched for covered paths
	// remapped says that its mount table was read again in this interval; former
	// are the mounts that were known before that.
	remapped bool
	former   []resolver.Mount

	started bool // it was, while it was watched
	// late says that it was created during the run: what is in its layer by the time
	// that is watched was written in between.
	late   bool
	unseen bool // its layer was gone before it could be watched

	// held are changes that came while the baseline was being taken. What they
	// lead to, records of the layer, needs the baseline.
	scanning bool
	first    bool // the session waits for it to begin
	held     []resolver.Change
	beside   bool // other baselines were taken at the same time
	retried  bool // it is taken for the second time
	leftOut  bool // there is no room for its files
	// behind is the container whose layer this one has too, so that it is not watched
	// as long as that one is.
	behind *watched

	suspects map[event.FileID]suspect
	log      logWatch
}

// upper is a layer's directory. It is kept beside the container's facts, which
// may lose it while the container is stopped.
type upper struct {
	path       string
	dev, inode uint64
	fileSystem string
}

// change is what followContainers hands over: a change, or that all existing
// containers have been reported.
type change struct {
	resolver.Change
	synced bool
}

// DriverError says that a container's storage driver keeps its layer neither in an
// overlay nor in a plain directory.
type DriverError struct {
	Container, Driver string
}

func (e *DriverError) Error() string {
	return fmt.Sprintf("the storage driver %s of container %s is not supported yet", e.Driver, e.Container)
}

// followContainers reports changes to the loop until ctx ends.
func (s *Session) followContainers(ctx context.Context) {
	send := func(c change) {
		select {
		case s.changes <- c:
		case <-ctx.Done():
		}
	}
	sel := s.cfg.Select
	sel.Synced = func() { send(change{synced: true}) }
	err := s.cfg.Containers.Watch(ctx, sel, func(c resolver.Change) { send(change{Change: c}) })
	if err != nil && ctx.Err() == nil {
		s.failed <- fmt.Errorf("following the containers: %w", err)
	}
}

// handle is a change's way into the books.
func (s *Session) handle(ctx context.Context, c change) error {
	if c.synced {
		s.synced = true
		if err := s.endScans(ctx); err != nil {
			return err
		}
		return s.tellLeftOut()
	}
	if err := s.apply(ctx, c.Change); err != nil {
		return err
	}
	return s.flush()
}

// meanwhile runs f, which takes long and does not touch the session, in a goroutine.
// Intervals end as ever, and containers that turn up are watched at once: they may
// begin to write before f is done. What changes of those that are watched has to wait,
// and what comes after that. If the session is asked to end, or something else fails,
// f's context ends: what f is for is then done at the end, or not at all. While the
// session ends, f alone is waited for.
func (s *Session) meanwhile(ctx context.Context, f func(context.Context) error) error {
	if s.ending {
		return f(ctx)
	}
	if s.asked != "" {
		return context.Canceled
	}
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	s.spawn(func() { done <- f(inner) })
	if s.resting {
		s.stir()
	}
	tick := s.nextTick()
	for {
		select {
		case err := <-done:
			return err
		case s.asked = <-s.stop:
			cancel()
			return <-done
		case <-s.over:
			s.asked = record.EndedDuration
			cancel()
			return <-done
		case <-tick:
			s.broke = s.tick()
			tick = s.nextTick()
		case c := <-s.changes:
			if !s.mayGoFirst(c) {
				s.later = append(s.later, c)
				continue
			}
			s.broke = s.handle(ctx, c)
		}
		if s.broke != nil {
			cancel()
			<-done
			return s.broke
		}
	}
}

// mayGoFirst tells whether a change is of a container that is not watched yet, and of
// which nothing else waits.
func (s *Session) mayGoFirst(c change) bool {
	if c.synced {
		return false
	}
	if w := s.byID[c.Container.ID]; w != nil && w.layer != 0 {
		return false
	}
	return !slices.ContainsFunc(s.later, func(l change) bool { return l.Container.ID == c.Container.ID })
}

func (s *Session) apply(ctx context.Context, c resolver.Change) error {
	w := s.byID[c.Container.ID]
	if w == nil {
		if c.Kind == resolver.Removed {
			return nil
		}
		w = &watched{facts: c.Container}
		s.byID[c.Container.ID] = w
		if s.begun {
			s.baseLog(w)
		}
	}
	if w.scanning {
		w.held = append(w.held, c)
		return nil
	}
	s.log.Debug().Str("container", c.Container.Name).Str("change", string(c.Kind)).Msg("container changed")

	w.facts = c.Container
	w.started = w.started || c.Kind == resolver.Started || w.facts.Running()
	if err := s.noteInUse(w); err != nil {
		return err
	}
	switch c.Kind {
	case resolver.Removed:
		if err := s.removed(w); err != nil {
			return err
		}
		return s.handOn(ctx, w)
	case resolver.Stopped:
		return s.stopped(ctx, w)
	case resolver.Renamed:
		return s.renamed(w)
	case resolver.Found:
		if err := s.emit(s.event(record.ContainerFound, w)); err != nil {
			return err
		}
	case resolver.Started:
		if err := s.emit(s.event(record.ContainerStarted, w)); err != nil {
			return err
		}
	}
	return s.attach(ctx, w)
}

// attach begins to watch the container's layer once it is known where it is, and
// its cgroup if covered paths are of interest.
func (s *Session) attach(ctx context.Context, w *watched) error {
	c := &w.facts
	now := upper{path: c.UpperPath(), dev: c.UpperDevice, inode: c.UpperInode, fileSystem: c.UpperFileSystem}
	if w.layer != 0 && c.LayerErr == nil && (now.dev != w.upper.dev || now.inode != w.upper.inode) {
		// A runtime keeps a container's layer for the container's life, so this
		// is one that was made anew under the old id.
		if err := s.detach(w); err != nil {
			return err
		}
		if err := s.handOn(ctx, w); err != nil {
			return err
		}
	}
	if w.layer == 0 {
		switch {
		case w.leftOut, w.behind != nil && now == w.upper:
			return nil
		case c.LayerErr != nil:
			return s.noLayer(w)
		}
		w.upper, w.behind = now, nil
		return s.watchLayer(ctx, w)
	}
	return s.watchCgroup(w)
}

// watchLayer begins to watch the container's upper directory.
func (s *Session) watchLayer(ctx context.Context, w *watched) error {
	if err := s.addLayer(ctx, w); err != nil {
		return s.skip(w, err)
	}
	return s.watchCgroup(w)
}

// addLayer makes the layer known to kernel side and books and begins to take its
// baseline. That there is no room for it is no error here.
func (s *Session) addLayer(ctx context.Context, w *watched) error {
	s.beginScan(w)
	err := s.openLayer(w)
	switch {
	case err == nil:
		s.scan(ctx, w)
		return nil
	case errors.Is(err, tracer.ErrTableFull):
		return s.noRoom(ctx, w)
	case errors.Is(err, resolver.ErrVanished):
		w.unseen = true
		return s.endScan(ctx, w)
	}
	return errors.Join(fmt.Errorf("watching the layer of %s: %w", w.facts.Name, err), s.endScan(ctx, w))
}

// openLayer makes the layer known to kernel side and books. If there is no room for
// it in the kernel, it stays in the books.
func (s *Session) openLayer(w *watched) error {
	if w.behind = s.holder(w.upper); w.behind != nil {
		return fmt.Errorf("it is that of %s, which is watched already", w.behind.facts.Name)
	}
	id, err := s.newID()
	if err != nil {
		return err
	}
	w.layer, w.mounted, w.unseen = id, inUse(&w.facts), false
	s.byLayer[id] = w
	s.agg.AddLayer(id, w.facts.Record())
	err = s.cfg.Kernel.AddLayer(id, event.Upper{
		Device: w.upper.dev, Inode: w.upper.inode, FileSystem: w.upper.fileSystem, Mounted: w.mounted,
		Plain: w.facts.Plain,
	})
	if err == nil && !w.upper.there() {
		// The inode may be another layer's by now.
		err = resolver.ErrVanished
	}
	if err == nil {
		// It may have been mounted or unmounted since the facts were read. From
		// here on the kernel side sees that for itself.
		w.mounted, err = s.cfg.Kernel.SetMounted(id, func() bool { return s.cfg.Containers.LayerMounted(&w.facts) })
		w.late = s.begun && w.facts.CreatedAt.After(s.began) && !w.facts.HoldsImage()
	}
	if err == nil {
		s.noteWriter(&w.facts)
	}
	if err != nil && !errors.Is(err, tracer.ErrTableFull) {
		s.agg.Forget(id)
		err = errors.Join(err, s.release(w))
	}
	return err
}

// holder returns the container that is watched on an upper directory, if there is one.
// One whose directory is gone, though its removal is yet to be told of, has left the
// inode's number to others.
func (s *Session) holder(u upper) *watched {
	for _, w := range s.byLayer {
		if w.upper.dev == u.dev && w.upper.inode == u.inode && w.upper.there() {
			return w
		}
	}
	return nil
}

// handOn begins to watch a container that was behind this one, whose layer may stay:
// with containerd they can succeed each other on a snapshot.
func (s *Session) handOn(ctx context.Context, w *watched) error {
	for _, next := range s.byID {
		if next.behind != w {
			continue
		}
		next.behind = nil
		if err := s.attach(ctx, next); err != nil {
			return err
		}
	}
	return nil
}

// noteWriter tells where all growth will be that of one process.
func (s *Session) noteWriter(c *resolver.Container) {
	by := c.WritesBy()
	if by == "" {
		return
	}
	reason := "processes that write through " + by + " are not told apart"
	s.log.Warn().Str("container", c.Name).Msg(reason)
	if !s.begun && !slices.Contains(s.partial, reason) {
		s.partial = append(s.partial, reason)
	}
}

// there tells whether the directory is still the one that it was.
func (u *upper) there() bool {
	var st unix.Stat_t
	return unix.Stat(u.path, &st) == nil && st.Ino == u.inode
}

// noLayer deals with a container whose upper directory is not known.
func (s *Session) noLayer(w *watched) error {
	switch err := Watchable(&w.facts); {
	case err == nil:
	case s.begun && errors.Is(err, fs.ErrNotExist):
		s.goOnWithout(w, err, "") // it is likely to be gone by now
		return nil
	default:
		return s.skip(w, err)
	}
	s.log.Info().Str("container", w.facts.Name).AnErr("cause", w.facts.LayerErr).
		Msg("layer is not known before the container starts")
	return nil
}

// Watchable says why a container's layer cannot be watched, now or after its
// next start; nil if it can, or may then. Errors match *DriverError if the
// storage driver is the reason.
func Watchable(c *resolver.Container) error {
	switch {
	case c.LayerErr == nil:
		return nil
	case errors.Is(c.LayerErr, resolver.ErrNoUpperDir):
		return &DriverError{Container: c.Name, Driver: c.Driver}
	case c.Running():
		return fmt.Errorf("finding the layer of %s: %w", c.Name, c.LayerErr)
	}
	return nil
}

// skip goes on without a container that cannot be watched, if the user did not
// name it, and says so.
func (s *Session) skip(w *watched, err error) error {
	if !s.cfg.Select.All {
		return err
	}
	s.goOnWithout(w, err, "")
	return nil
}

// goOnWithout tells of a container that is not watched, and why.
func (s *Session) goOnWithout(w *watched, err error, hint string) {
	e := s.log.Warn().Str("container", w.facts.Name).Err(err)
	if hint != "" {
		e = e.Str("hint", hint)
	}
	e.Msg("container is not watched")
	if !s.begun {
		s.partial = append(s.partial, err.Error())
	}
}

// watchCgroup follows the container's cgroup, which each start makes anew.
func (s *Session) watchCgroup(w *watched) error {
	id := w.facts.CgroupID
	if !s.cfg.IncludeCovered || w.layer == 0 || id == 0 || id == w.cgroup {
		return nil
	}
	if err := s.unwatchCgroup(w); err != nil {
		return err
	}
	if err := s.cfg.Kernel.WatchCgroup(id, w.layer); err != nil {
		return fmt.Errorf("watching the control group of %s: %w", w.facts.Name, err)
	}
	w.cgroup = id
	return nil
}

func (s *Session) unwatchCgroup(w *watched) error {
	if w.cgroup == 0 {
		return nil
	}
	if err := s.cfg.Kernel.UnwatchCgroup(w.cgroup); err != nil {
		return fmt.Errorf("releasing the control group of %s: %w", w.facts.Name, err)
	}
	w.cgroup = 0
	return nil
}

// stopped writes what the container did until its end. Its layer is held against
// the disk at once, because it may be removed next.
func (s *Session) stopped(ctx context.Context, w *watched) error {
	if w.layer == 0 {
		return s.emit(s.event(record.ContainerStopped, w))
	}
	if err := s.collect(); err != nil {
		return err
	}
	if err := s.audit(ctx, w); err != nil {
		return err
	}
	now := s.cfg.Clock.Now()
	s.checkLimit(w, now)
	s.measureLog(w, true)
	return s.emit(w.described(s.agg.Stopped(w.layer, now))...)
}

func (s *Session) renamed(w *watched) error {
	if w.layer == 0 {
		return s.emit(s.event(record.ContainerRenamed, w))
	}
	return s.emit(w.described(s.agg.Renamed(w.layer, w.facts.Record(), s.cfg.Clock.Now()))...)
}

func (s *Session) removed(w *watched) error {
	delete(s.byID, w.facts.ID)
	if w.layer != 0 {
		return s.detach(w)
	}
	err := s.emit(s.event(record.ContainerRemoved, w))
	unseen := w.unseen || w.facts.LayerErr != nil && !errors.Is(w.facts.LayerErr, resolver.ErrNoUpperDir)
	if err == nil && unseen && w.started && !w.leftOut {
		// What it wrote can not be known any more.
		s.log.Warn().Str("container", w.facts.Name).AnErr("cause", w.facts.LayerErr).Msg("container came and went unseen")
		err = s.emit(s.agg.Missed(w.facts.Record(), s.cfg.Clock.Now())...)
	}
	return err
}

// detach ends the layer's life in kernel side and books.
func (s *Session) detach(w *watched) error {
	if err := s.collect(); err != nil {
		return err
	}
	now := s.cfg.Clock.Now()
	s.checkLimit(w, now)
	recs := w.described(s.agg.Removed(w.layer, now))
	if err := s.release(w); err != nil {
		return err
	}
	return s.emit(recs...)
}

// release takes the layer from the kernel side. The books are the caller's.
func (s *Session) release(w *watched) error {
	id := w.layer
	err := s.unwatchCgroup(w)
	if removeErr := s.cfg.Kernel.RemoveLayer(id); removeErr != nil {
		// Its id is lost then: nobody knows what may still come.
		err = errors.Join(err, fmt.Errorf("releasing the layer of %s: %w", w.facts.Name, removeErr))
	} else {
		s.ids.free(id)
	}
	delete(s.byLayer, id)
	delete(s.rates, id)
	maps.DeleteFunc(s.touched, func(t touch, _ struct{}) bool { return t.layer == id })
	w.layer, w.seeded, w.suspects = 0, false, nil
	return err
}

// anyLeft reports whether there is a container that is watched or may come to be,
// or one that was named is waited for.
func (s *Session) anyLeft() bool {
	for _, w := range s.byID {
		if !w.leftOut {
			return true
		}
	}
	return s.cfg.Keep && len(s.byID) < len(s.cfg.Select.Refs)
}

// event makes the container record of an event.
func (s *Session) event(kind string, w *watched) record.Record {
	e := &record.ContainerEvent{
		Header: record.NewHeader(record.TypeContainer, s.cfg.Clock.Now()), Event: kind, Container: w.facts.Record(),
	}
	w.describe(e)
	return e
}

// describe adds what is known of the container beside its name.
func (w *watched) describe(e *record.ContainerEvent) {
	e.UpperDir, e.UpperDirB64 = record.Text(w.facts.UpperDir)
	e.Driver, e.Mounts = w.facts.Driver, w.facts.RecordMounts()
}

// described does so for the container records among what the books have made.
func (w *watched) described(list []record.Record) []record.Record {
	for _, r := range list {
		if e, ok := r.(*record.ContainerEvent); ok {
			w.describe(e)
		}
	}
	return list
}

// noteMounted keeps whether any overlay mount uses the layers.
func (s *Session) noteMounted(b *event.Batch) {
	for _, state := range b.Layers {
		if w := s.byLayer[state.Layer]; w != nil {
			w.mounted = state.Mounted
		}
	}
}

// inOrder returns the containers by name and id.
func (s *Session) inOrder() []*watched {
	all := make([]*watched, 0, len(s.byID))
	for _, w := range s.byID {
		all = append(all, w)
	}
	slices.SortFunc(all, func(a, b *watched) int {
		return cmp.Or(cmp.Compare(a.facts.Name, b.facts.Name), cmp.Compare(a.facts.ID, b.facts.ID))
	})
	return all
}
