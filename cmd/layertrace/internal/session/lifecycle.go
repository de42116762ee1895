package session

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/layertrace/layertrace/internal/record"
	"github.com/layertrace/layertrace/resolver"
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
	// remapped says that its mount table was read again in this interval.
	remapped bool

	// held are changes that came while the baseline was being taken. What they
	// lead to, records of the layer, needs the baseline.
	scanning bool
	first    bool // it was there before the session began
	held     []resolver.Change

	suspects map[event.FileID]suspect
}

// upper is a layer's directory. It is kept beside the container's facts, which
// may lose it while the container is stopped.
type upper struct {
	path       string
	dev, inode uint64
}

// change is what followContainers hands over: a change, or that all existing
// containers have been reported.
type change struct {
	resolver.Change
	synced bool
}

// DriverError says that a container's storage driver keeps its layer in no
// overlay.
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
		return nil
	}
	if err := s.apply(ctx, c.Change); err != nil {
		return err
	}
	return s.flush()
}

func (s *Session) apply(ctx context.Context, c resolver.Change) error {
	w := s.byID[c.Container.ID]
	if w == nil {
		if c.Kind == resolver.Removed {
			return nil
		}
		w = &watched{}
		s.byID[c.Container.ID] = w
	}
	if w.scanning {
		w.held = append(w.held, c)
		return nil
	}
	s.log.Debug().Str("container", c.Container.Name).Str("change", string(c.Kind)).Msg("container changed")

	w.facts = c.Container
	switch c.Kind {
	case resolver.Removed:
		return s.removed(w)
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
	now := upper{path: c.UpperDir, dev: c.UpperDevice, inode: c.UpperInode}
	if w.layer != 0 && c.LayerErr == nil && (now.dev != w.upper.dev || now.inode != w.upper.inode) {
		// A runtime keeps a container's layer for the container's life, so this
		// is one that was made anew under the old id.
		if err := s.detach(w); err != nil {
			return err
		}
	}
	if w.layer == 0 {
		if c.LayerErr != nil {
			return s.noLayer(w)
		}
		w.upper = now
		if err := s.addLayer(ctx, w); err != nil {
			return s.skip(w, err)
		}
	}
	return s.watchCgroup(w)
}

// addLayer makes the layer known to kernel side and books and takes its baseline.
func (s *Session) addLayer(ctx context.Context, w *watched) error {
	id := s.lastID + 1
	mounted := w.facts.OverlayDevice != 0
	if err := s.cfg.Kernel.AddLayer(id, w.upper.dev, w.upper.inode, mounted); err != nil {
		return fmt.Errorf("watching the layer of %s: %w", w.facts.Name, err)
	}
	s.lastID = id
	w.layer, w.mounted = id, mounted
	s.byLayer[id] = w
	s.agg.AddLayer(id, w.facts.Record())
	s.scan(ctx, w)
	return nil
}

// noLayer deals with a container whose upper directory is not known.
func (s *Session) noLayer(w *watched) error {
	if err := Watchable(&w.facts); err != nil {
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
	s.log.Warn().Str("container", w.facts.Name).Err(err).Msg("container is not watched")
	if !s.begun {
		s.partial = append(s.partial, err.Error())
	}
	return nil
}

// watchCgroup follows the container's cgroup, which each start makes anew.
func (s *Session) watchCgroup(w *watched) error {
	id := w.facts.CgroupID
	if !s.cfg.IncludeCovered || w.layer == 0 || id == 0 || id == w.cgroup {
		return nil
	}
	if err := s.cfg.Kernel.WatchCgroup(id, w.layer); err != nil {
		return fmt.Errorf("watching the control group of %s: %w", w.facts.Name, err)
	}
	w.cgroup = id
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
	return s.emit(s.agg.Stopped(w.layer, now)...)
}

func (s *Session) renamed(w *watched) error {
	if w.layer == 0 {
		return s.emit(s.event(record.ContainerRenamed, w))
	}
	return s.emit(s.agg.Renamed(w.layer, w.facts.Record(), s.cfg.Clock.Now())...)
}

func (s *Session) removed(w *watched) error {
	delete(s.byID, w.facts.ID)
	if w.layer == 0 {
		return s.emit(s.event(record.ContainerRemoved, w))
	}
	return s.detach(w)
}

// detach ends the layer's life in kernel side and books.
func (s *Session) detach(w *watched) error {
	if err := s.collect(); err != nil {
		return err
	}
	now := s.cfg.Clock.Now()
	s.checkLimit(w, now)
	if err := s.cfg.Kernel.RemoveLayer(w.layer); err != nil {
		return fmt.Errorf("releasing the layer of %s: %w", w.facts.Name, err)
	}
	recs := s.agg.Removed(w.layer, now)
	delete(s.byLayer, w.layer)
	delete(s.rates, w.layer)
	w.layer, w.seeded, w.cgroup, w.suspects = 0, false, 0, nil
	return s.emit(recs...)
}

// event makes the container record of an event.
func (s *Session) event(kind string, w *watched) record.Record {
	c := &w.facts
	return &record.ContainerEvent{
		Header:    record.NewHeader(record.TypeContainer, s.cfg.Clock.Now()),
		Event:     kind,
		Container: c.Record(),
		UpperDir:  c.UpperDir,
		Driver:    c.Driver,
		Mounts:    c.RecordMounts(),
	}
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
