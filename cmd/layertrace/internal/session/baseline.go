package session

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/internal/aggregate"
	"github.com/layertrace/layertrace/internal/layer"
	"github.com/layertrace/layertrace/internal/record"
	"github.com/layertrace/layertrace/tracer/event"
)

const (
	// seedsAtOnce is how many names of a baseline are handed over together.
	seedsAtOnce = 512
	// settleTries bounds how often a file that is being written is looked at
	// again. A look takes microseconds; even a writer that appends byte by byte
	// pauses for longer than that many times in the second that all take.
	settleTries = 1 << 18
	// walksAtMost bounds how often a layer in which files are moved about is
	// walked anew.
	walksAtMost = 16
)

// scanned is a part of a layer's baseline, or its end.
type scanned struct {
	layer event.LayerID
	seeds []aggregate.Baseline
	done  bool
	err   error
}

// scan takes the layer's baseline in a goroutine: a layer may hold millions of
// files, and others want to be served meanwhile.
func (s *Session) scan(ctx context.Context, w *watched) {
	scan := newBaseline(s.cfg.Kernel, w.layer, w.upper)
	root := w.upper.path
	w.scanning, w.first = true, !s.synced
	s.scanning++
	if w.first {
		s.first++
	}
	s.spawn(func() {
		scan.hand = func(part scanned) error {
			select {
			case s.scans <- part:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		err := scan.run(ctx, root, s.scanSlot)
		_ = scan.hand(scanned{layer: scan.layer, done: true, err: err})
	})
}

// scanPart books a part of a baseline, and at its end does what had to wait.
func (s *Session) scanPart(ctx context.Context, part scanned) error {
	w := s.byLayer[part.layer]
	for _, seed := range part.seeds {
		s.agg.Seed(part.layer, seed)
	}
	if !part.done {
		return nil
	}
	s.scanning--
	if w.first {
		s.first--
	}
	w.scanning = false
	switch {
	case part.err == nil:
	case errors.Is(part.err, fs.ErrNotExist):
		// The layer is gone; the container's removal will be reported.
	default:
		return fmt.Errorf("taking the baseline of %s: %w", w.facts.Name, part.err)
	}
	// The books tell files that came to life during the scan from the baseline
	// by what the kernel side says of them, so that must be known first.
	if err := s.collect(); err != nil {
		return err
	}
	s.agg.SeedDone(part.layer)
	w.seeded = true
	s.rates[part.layer] = rateWindow{since: s.cfg.Clock.Now()}
	return s.replay(ctx, w)
}

// replay handles the changes that came while the baseline was taken.
func (s *Session) replay(ctx context.Context, w *watched) error {
	for len(w.held) > 0 && !w.scanning {
		next := w.held[0]
		w.held = w.held[1:]
		if err := s.apply(ctx, next); err != nil {
			return err
		}
	}
	return s.flush()
}

// baseline is a layer.Visitor that tells the kernel side of each inode before it
// looks at its size, so that what a writer does in between is not lost: either
// the size has it already or the kernel side counts it.
type baseline struct {
	kernel Kernel
	layer  event.LayerID
	dev    uint64
	hand   func(scanned) error

	dirs   map[uint64]event.FileID // directories by inode number
	linked map[uint64]sizes        // what was settled for inodes with several names
	// open are inodes that are tracked, but not settled. An inode is settled
	// once, under whatever name it is seen first.
	open  map[uint64]struct{}
	at    entered
	again bool // a walk went before this one
	seeds []aggregate.Baseline
}

type sizes struct{ size, disk int64 }

// entered is what the kernel side said of the inode that is looked at.
type entered struct {
	inode uint64
	file  event.FileID
	known bool
}

func newBaseline(kernel Kernel, id event.LayerID, root upper) *baseline {
	return &baseline{
		kernel: kernel, layer: id, dev: root.dev,
		dirs:   map[uint64]event.FileID{},
		linked: map[uint64]sizes{},
		open:   map[uint64]struct{}{root.inode: {}}, // tracked by AddLayer
	}
}

func (b *baseline) run(ctx context.Context, root string, slots chan struct{}) error {
	select {
	case slots <- struct{}{}:
		defer func() { <-slots }()
	case <-ctx.Done():
		return ctx.Err()
	}
	for range walksAtMost {
		before, err := b.kernel.Strays(b.layer)
		if err != nil {
			return err
		}
		if err := layer.Walk(ctx, root, b); err != nil {
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
	return b.handOver()
}

// Enter implements layer.Visitor.
func (b *baseline) Enter(_ uint64, _ string, inode uint64, mode uint32) error {
	file, known, err := b.kernel.Track(b.layer, b.dev, inode, mode)
	if err != nil {
		return fmt.Errorf("tracking inode %d: %w", inode, err)
	}
	if !known {
		file = event.FileID{Inode: inode}
		b.open[inode] = struct{}{}
	}
	b.at = entered{inode: inode, file: file, known: known}
	return nil
}

// Visit implements layer.Visitor.
func (b *baseline) Visit(e *layer.Entry) error {
	if e.Dir() {
		b.dirs[e.Inode] = b.at.file
	}
	if b.at.known && b.at.file.Generation != 0 {
		return nil // it came to life after counting began: growth, no baseline
	}
	if _, open := b.open[e.Inode]; b.again && b.at.known && !open && (e.Dir() || e.Nlink < 2) {
		return nil // the first walk has told; where it is now, the kernel side tells
	}
	was, ok, err := b.settled(e)
	if err != nil || !ok {
		return err
	}
	b.seeds = append(b.seeds, aggregate.Baseline{
		File:   b.at.file,
		Parent: b.dirs[e.Parent],
		Name:   e.Name,
		Mode:   e.Mode,
		Origin: origin(e),
		Links:  uint32(min(e.Nlink, 1<<32-1)),
		Size:   was.size,
		Disk:   was.disk,
	})
	if len(b.seeds) < seedsAtOnce {
		return nil
	}
	return b.handOver()
}

// unsettled reports whether files were tracked but had another name when they were
// to be looked at. Those that were deleted instead are none of the baseline.
func (b *baseline) unsettled() (bool, error) {
	for inode := range b.open {
		entry, known, err := b.kernel.Entry(b.dev, inode)
		if err != nil {
			return false, fmt.Errorf("looking up inode %d: %w", inode, err)
		}
		if !known || entry.Deleted {
			delete(b.open, inode)
		}
	}
	return len(b.open) > 0, nil
}

// settled returns what counts as the inode's baseline; ok is false if it is gone.
func (b *baseline) settled(e *layer.Entry) (was sizes, ok bool, err error) {
	if _, open := b.open[e.Inode]; !open {
		if was, ok = b.linked[e.Inode]; !ok {
			// It had one name when it was settled. The books count its sizes
			// once, so that these do not matter.
			was = sizes{e.Size, e.Allocated}
		}
		return was, true, nil
	}
	was, ok, err = b.settle(e)
	delete(b.open, e.Inode)
	if ok && e.Nlink > 1 && !e.Dir() {
		b.linked[e.Inode] = was
	}
	return was, ok, err
}

func (b *baseline) settle(e *layer.Entry) (was sizes, ok bool, err error) {
	size, disk := e.Size, e.Allocated
	for range settleTries {
		baseSize, baseDisk, again, gone, err := b.kernel.Settle(b.layer, b.dev, e.Inode, size, disk)
		switch {
		case err != nil:
			return sizes{}, false, fmt.Errorf("settling inode %d: %w", e.Inode, err)
		case gone:
			return sizes{}, false, nil
		case !again:
			return sizes{baseSize, baseDisk}, true, nil
		}
		st, err := e.Restat()
		if errors.Is(err, fs.ErrNotExist) {
			return sizes{}, false, nil
		}
		if err != nil {
			return sizes{}, false, err
		}
		size, disk = st.Size, st.Blocks*512
	}
	return sizes{}, false, fmt.Errorf("%s changes faster than it can be measured", e.Path)
}

func (b *baseline) handOver() error {
	if len(b.seeds) == 0 {
		return nil
	}
	part := scanned{layer: b.layer, seeds: b.seeds}
	b.seeds = nil
	return b.hand(part)
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
