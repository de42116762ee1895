package session

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/internal/aggregate"
	"github.com/layertrace/layertrace/internal/layer"
	"github.com/layertrace/layertrace/internal/record"
	"github.com/layertrace/layertrace/tracer"
	"github.com/layertrace/layertrace/tracer/event"
)

const (
	// seedsAtOnce is how many names of a baseline are handed over together.
	seedsAtOnce = 512
	// settleTries bounds how often a file that is being written is looked at
	// again. A look takes microseconds; even a writer that appends byte by byte
	// pauses for longer than that many times in the second that all take.
	settleTries = 1 << 18
	// walkersAtMost bounds how many threads walk a layer.
	walkersAtMost = 8
	// walksAtMost bounds how often a layer in which files are moved about is
	// walked anew.
	walksAtMost = 16
)

// scanned is a part of a layer's baseline, or its end.
type scanned struct {
	layer event.LayerID
	seeds []aggregate.Baseline
	read  bool // the walk is over: another layer may be read
	done  bool
	err   error
}

// beginScan holds back what is to be told of a container until its baseline is
// taken, and if the session has yet to begin, the session.
func (s *Session) beginScan(w *watched) {
	w.beside = s.scanning > 0
	if w.beside {
		for _, other := range s.byLayer {
			other.beside = true
		}
	}
	if w.scanning {
		return // for the second time
	}
	w.scanning, w.retried, w.first = true, false, !s.synced
	if w.first {
		s.first++
	}
}

// endScan handles the changes that came while the baseline was taken.
func (s *Session) endScan(ctx context.Context, w *watched) error {
	w.scanning = false
	if w.first {
		w.first = false
		s.first--
	}
	for len(w.held) > 0 && !w.scanning {
		next := w.held[0]
		w.held = w.held[1:]
		if err := s.apply(ctx, next); err != nil {
			return err
		}
	}
	return s.flush()
}

// scan has the layer's baseline taken in a goroutine: a layer may hold millions of
// files, and others want to be served meanwhile.
func (s *Session) scan(ctx context.Context, w *watched) {
	s.scanning++
	s.toWalk = append(s.toWalk, newBaseline(s.cfg.Kernel, s.cfg.Clock, w.layer, w.upper))
	s.walk(ctx)
}

// walk takes as many baselines as may be taken at a time.
func (s *Session) walk(ctx context.Context) {
	for s.walking < scansAtOnce && len(s.toWalk) > 0 {
		scan := s.toWalk[0]
		s.toWalk = s.toWalk[1:]
		s.walking++
		scan.hand = func(part scanned) error {
			select {
			case s.scans <- part:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		s.spawn(func() {
			err := scan.walk(ctx)
			if scan.hand(scanned{layer: scan.layer, read: true}) != nil {
				return
			}
			if err == nil {
				err = scan.settleFresh(ctx)
			}
			_ = scan.hand(scanned{layer: scan.layer, done: true, err: err})
		})
	}
}

// scanParts books a part of a baseline and those that wait behind it.
func (s *Session) scanParts(ctx context.Context, part scanned) error {
	for waiting := len(s.scans); ; waiting-- {
		for _, seed := range part.seeds {
			s.agg.Seed(part.layer, seed)
		}
		if part.read {
			s.walking--
		}
		if part.done {
			s.walked = append(s.walked, part)
		}
		if waiting == 0 {
			break
		}
		part = <-s.scans
	}
	s.walk(ctx)
	return s.endScans(ctx)
}

// endScans does what had to wait for baselines to be taken. Many layers are read
// faster than the kernel's counters, so that these are read once for all of them;
// before the session has begun, nobody waits for a single one.
func (s *Session) endScans(ctx context.Context) error {
	if len(s.walked) == 0 || !s.begun && !s.ending && (!s.synced || s.scanning > len(s.walked)) {
		return nil
	}
	ended := s.walked
	s.walked = nil
	// The books tell files that came to life during the scan from the baseline
	// by what the kernel side says of them, so that must be known first.
	if err := s.collect(); err != nil {
		return err
	}
	for _, part := range ended {
		s.scanning--
		if err := s.scanDone(ctx, s.byLayer[part.layer], part.err); err != nil {
			return err
		}
	}
	for s.scanning == 0 && len(s.again) > 0 {
		w := s.again[0]
		s.again = s.again[1:]
		if err := s.watchLayer(ctx, w); err != nil {
			return err
		}
	}
	return nil
}

// scanDone ends the taking of a baseline.
func (s *Session) scanDone(ctx context.Context, w *watched, err error) error {
	switch {
	case err == nil:
	case errors.Is(err, fs.ErrNotExist):
		// The layer is gone; the container's removal will be reported.
	case errors.Is(err, tracer.ErrTableFull):
		return s.noRoom(ctx, w)
	default:
		return fmt.Errorf("taking the baseline of %s: %w", w.facts.Name, err)
	}
	if w.late {
		if size, disk := s.agg.SeedLate(w.layer); size != 0 || disk != 0 {
			s.log.Info().Str("container", w.facts.Name).Int64("size", size).Int64("disk", disk).
				Msg("container was noticed after it had started, what it held by then is unattributed")
		}
	} else {
		s.agg.SeedDone(w.layer)
	}
	w.seeded = true
	s.rates[w.layer] = rateWindow{since: s.cfg.Clock.Now()}
	return s.endScan(ctx, w)
}

// noRoom deals with a layer for whose files the kernel side has no room. If other
// baselines were taken at the same time, it may be one of those that is too large,
// so this one is taken once more after them.
func (s *Session) noRoom(ctx context.Context, w *watched) error {
	id := w.layer
	if err := s.release(w); err != nil {
		return err
	}
	if w.beside && !w.retried {
		s.log.Debug().Str("container", w.facts.Name).Msg("table of files is full, baseline will be taken again")
		s.agg.Forget(id)
		w.retried = true
		s.again = append(s.again, w)
		return nil
	}
	w.leftOut = true
	if err := s.emit(s.agg.LeaveOut(id, s.cfg.Clock.Now())...); err != nil {
		return err
	}
	s.untold = append(s.untold, w)
	if err := s.tellLeftOut(); err != nil {
		return err
	}
	return s.endScan(ctx, w)
}

// tellLeftOut goes on without the containers that there is no room for, if the
// user did not name them or there are others.
func (s *Session) tellLeftOut() error {
	if !s.cfg.Select.All && !s.synced {
		return nil // the others may not be known yet
	}
	for _, w := range s.untold {
		err := fmt.Errorf("taking the baseline of %s: %w", w.facts.Name, tracer.ErrTableFull)
		if !s.cfg.Select.All && !s.anyLeft() {
			return err
		}
		s.goOnWithout(w, err, s.cfg.RoomHint)
	}
	s.untold = nil
	return nil
}

// baseline is what is known of a layer while its baseline is taken.
type baseline struct {
	kernel Kernel
	clock  Clock
	layer  event.LayerID
	root   string
	dev    uint64
	hand   func(scanned) error
	again  bool // a walk went before this one

	mu   sync.Mutex
	dirs map[uint64]event.FileID // directories by inode number
	// open are inodes that are tracked, but not settled, by the names that they had
	// then. An inode is settled once, under whatever name it is seen first.
	open  map[event.FileID]tracked
	fresh []fresh
}

type sizes struct{ size, disk int64 }

// tracked is the name of an inode at the moment from which on it was tracked.
type tracked struct {
	parent event.FileID
	name   string
	mode   uint32
	again  bool // somebody was about to settle it when it was moved
}

// seeder is a layer.Enterer that tells the kernel side of each inode before it
// looks at its size, so that what a writer does in between is not lost: either
// the size has it already or the kernel side counts it. Several share a baseline, and
// what is of one inode may come to them in any order.
type seeder struct {
	*baseline
	at    entered
	seeds []aggregate.Baseline
}

// entered is what the kernel side said of the inode that is looked at.
type entered struct {
	file  event.FileID
	known bool
}

func newBaseline(kernel Kernel, clock Clock, id event.LayerID, root upper) *baseline {
	return &baseline{
		kernel: kernel, clock: clock, layer: id, root: root.path, dev: root.dev,
		dirs: map[uint64]event.FileID{},
		open: map[event.FileID]tracked{},
	}
}

func (b *baseline) walk(ctx context.Context) error {
	for range walksAtMost {
		before, err := b.kernel.Strays(b.layer)
		if err != nil {
			return err
		}
		if err := b.walkOnce(ctx); err != nil {
			return err
		}
		after, err := b.kernel.Strays(b.layer)
		if err != nil {
			return err
		}
		unsettled, err := b.unsettled()
		if err != nil {
			return err
		}
		if before == after && !unsettled {
			break
		}
		// Something was moved to where the walk had been already, or while the
		// walk was about to look at it. The next one finds what is not settled.
		b.again = true
	}
	return nil
}

func (b *baseline) walkOnce(ctx context.Context) error {
	var seeders []*seeder
	err := layer.WalkShared(ctx, b.root, min(runtime.GOMAXPROCS(0), walkersAtMost), func() layer.Visitor {
		s := &seeder{baseline: b}
		seeders = append(seeders, s)
		return s
	})
	if err != nil {
		return err
	}
	for _, s := range seeders {
		if err := s.handOver(); err != nil {
			return err
		}
	}
	return nil
}

// settleFresh hands over the rest.
func (b *baseline) settleFresh(ctx context.Context) error {
	if err := b.recheck(ctx); err != nil {
		return err
	}
	s := seeder{baseline: b}
	for i := range b.fresh {
		if err := s.add(b.fresh[i].seed); err != nil {
			return err
		}
	}
	b.fresh = nil
	return s.handOver()
}

// Enter implements layer.Enterer.
func (s *seeder) Enter(parent uint64, name string, inode uint64, mode uint32) error {
	file, known, err := s.kernel.Track(s.layer, s.dev, inode, mode)
	if err != nil {
		return err
	}
	s.at = entered{file: file, known: known}
	// The root is known by AddLayer.
	if !known || name == "" && !s.again {
		s.mu.Lock()
		s.open[file] = tracked{parent: s.dirs[parent], name: name, mode: mode}
		s.mu.Unlock()
	}
	return nil
}

// Nameless implements layer.Enterer.
func (s *seeder) Nameless() error {
	if s.at.known {
		return nil // it was in the layer; the kernel side has counted its end
	}
	if err := s.kernel.Untrack(s.dev, s.at.file); err != nil {
		return err
	}
	was, open := s.claim()
	if !open {
		return nil // it had another name, under which it was seen
	}
	return s.add(was.vanished(s.at.file))
}

// Visit implements layer.Visitor.
func (s *seeder) Visit(e *layer.Entry) error {
	tracked, open := s.claim()
	seed := aggregate.Baseline{
		File:    s.at.file,
		Name:    e.Name,
		Mode:    e.Mode,
		Origin:  origin(e),
		Links:   uint32(min(e.Nlink, 1<<32-1)),
		Further: !open,
	}
	s.mu.Lock()
	seed.Parent = s.dirs[e.Parent]
	if e.Dir() {
		s.dirs[e.Inode] = s.at.file
	}
	s.mu.Unlock()

	switch {
	case s.at.file.Born():
		return nil // it came to life after counting began: growth, no baseline
	case open:
		was, ok, err := s.settle(e, tracked.again)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			tracked.again = true
			s.mu.Lock()
			s.open[s.at.file] = tracked
			s.mu.Unlock()
			return nil // it has another name by now, or will turn out to be deleted
		case err != nil:
			return err
		case !ok:
			return s.add(tracked.vanished(s.at.file))
		}
		seed.Size, seed.Disk = was.size, was.disk
		if s.keepFresh(e, &seed) {
			return nil
		}
	case s.again && s.at.known && (e.Dir() || e.Nlink < 2):
		return nil // the first walk has told; where it is now, the kernel side tells
	}
	return s.add(seed)
}

// claim takes what was entered from the open, so that whoever it is given to settles
// it. open is false if it was not among these.
func (s *seeder) claim() (was tracked, open bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	was, open = s.open[s.at.file]
	delete(s.open, s.at.file)
	return was, open
}

func (s *seeder) add(seed aggregate.Baseline) error {
	s.seeds = append(s.seeds, seed)
	if len(s.seeds) < seedsAtOnce {
		return nil
	}
	return s.handOver()
}

// unsettled reports whether files were tracked but had another name when they were
// to be looked at. Those that were deleted instead are none of the baseline, but
// what the kernel side booked on them since wants a name.
func (b *baseline) unsettled() (bool, error) {
	s := seeder{baseline: b}
	for file, was := range b.open {
		entry, known, err := b.kernel.Entry(b.dev, file.Inode)
		if err != nil {
			return false, err
		}
		if known && !entry.Deleted && entry.File == file {
			continue
		}
		delete(b.open, file)
		if err := s.add(was.vanished(file)); err != nil {
			return false, err
		}
	}
	return len(b.open) > 0, s.handOver()
}

func (t *tracked) vanished(file event.FileID) aggregate.Baseline {
	return aggregate.Baseline{File: file, Parent: t.parent, Name: t.name, Mode: t.mode, Gone: true}
}

// settle returns what counts as the inode's baseline; ok is false if it has none. What
// e says is too old if the kernel side has been asked about the inode before: that is
// what again tells. The error matches fs.ErrNotExist if it has another name by now.
func (s *seeder) settle(e *layer.Entry, again bool) (was sizes, ok bool, err error) {
	size, disk := e.Size, e.Allocated
	for range settleTries {
		if again {
			st, err := e.Restat()
			if err != nil {
				return sizes{}, false, err
			}
			size, disk = st.Size, st.Blocks*512
		}
		is, err := s.kernel.Settle(s.dev, s.at.file, size, disk)
		switch {
		case err != nil:
			return sizes{}, false, err
		case is.Gone:
			return sizes{}, false, nil
		case !is.Again:
			return sizes{is.Size, is.Disk}, true, nil
		}
		again = true
	}
	return sizes{}, false, fmt.Errorf("%s changes faster than it can be measured", e.Path)
}

func (s *seeder) handOver() error {
	if len(s.seeds) == 0 {
		return nil
	}
	part := scanned{layer: s.layer, seeds: s.seeds}
	s.seeds = nil
	return s.hand(part)
}

func origin(e *layer.Entry) string {
	switch {
	case e.Whiteout:
		return record.OriginWhiteout
	case e.Mode&unix.S_IFMT == unix.S_IFDIR:
		return record.OriginDirectory
	case e.CopiedUp:
		return record.OriginCopiedUp
	}
	return record.OriginAdded
}
