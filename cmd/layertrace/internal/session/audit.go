package session

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/internal/aggregate"
	"github.com/layertrace/layertrace/internal/layer"
	"github.com/layertrace/layertrace/tracer"
	"github.com/layertrace/layertrace/tracer/event"
)

// auditRounds bounds how often a file that differs is looked at again while it
// is being written.
const auditRounds = 4

// confirmAfter is how long a difference must last to be one.
const confirmAfter = time.Second

// errTeardown ends an audit of a layer that its runtime is deleting.
var errTeardown = errors.New("the layer is being deleted")

// audit holds the books of a layer against its directory and books what differs
// as unattributed. Layers that are gone, or are just going, are left alone: what
// was in them is told by the record of their removal.
func (s *Session) audit(ctx context.Context, w *watched) error {
	if !w.seeded {
		return nil
	}
	s.audited, s.torn = w, false
	defer func() { s.audited = nil }()
	diffs, err := s.compare(ctx, w)
	switch {
	case err == nil:
	case s.broke != nil:
		return s.broke
	case ofOutput(err), ctx.Err() != nil:
		return err
	case errors.Is(err, context.Canceled):
		return nil // the session ends, with an audit of all layers
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, errTeardown):
		return nil
	default:
		s.log.Warn().Err(err).Str("container", w.facts.Name).Msg("layer could not be held against the disk")
		return nil
	}
	if len(diffs) > 0 {
		s.log.Info().Str("container", w.facts.Name).Int("files", len(diffs)).Msg("books corrected by the disk")
		s.agg.Reconcile(w.layer, diffs)
	}
	return nil
}

// compare returns what the disk has beyond the books.
func (s *Session) compare(ctx context.Context, w *watched) ([]aggregate.Diff, error) {
	same, err := s.totalsMatch(ctx, w)
	if err != nil || same {
		return nil, err
	}
	var found []aggregate.Found
	err = s.meanwhile(ctx, func(ctx context.Context) (err error) {
		found, err = readLayer(ctx, w.upper.path)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := s.collectUnlessTorn(); err != nil {
		return nil, err
	}
	root, err := openRoot(w.upper)
	if err != nil {
		return nil, err
	}
	defer root.close()
	open := doubts(found, s.agg.Compare(w.layer, found))
	diffs, err := s.verify(ctx, w, root, open, false)
	if err != nil || len(diffs) == 0 {
		return diffs, err
	}
	// A write may have been caught halfway: its size is on the disk, the hook at
	// its end has yet to run. It does not stay there.
	err = s.meanwhile(ctx, func(ctx context.Context) error {
		select {
		case <-s.cfg.Clock.After(confirmAfter):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	if err != nil {
		return nil, err
	}
	if err := s.collectUnlessTorn(); err != nil {
		return nil, err
	}
	return s.verify(ctx, w, root, open, true)
}

// totalsMatch is the short way: the sums alone. It spares both sides a list of
// all files when nothing is wrong, as should be always, and nobody is writing.
func (s *Session) totalsMatch(ctx context.Context, w *watched) (bool, error) {
	var disk layer.Totals
	err := s.meanwhile(ctx, func(ctx context.Context) (err error) {
		disk, err = layer.Measure(ctx, w.upper.path)
		return err
	})
	if err != nil {
		return false, err
	}
	if err := s.collectUnlessTorn(); err != nil {
		return false, err
	}
	books, ok := s.agg.LayerTotals(w.layer)
	return ok && books.Size == disk.Size && books.Allocated == disk.Allocated && books.Files == disk.Files, nil
}

// collectUnlessTorn collects what happened during a walk. If files were freed
// although no overlay uses the layer, then the runtime is removing it, and what was
// walked is neither the layer as it was nor one that will last.
func (s *Session) collectUnlessTorn() error {
	if err := s.collect(); err != nil {
		return err
	}
	if s.torn {
		return errTeardown
	}
	return nil
}

// noteTorn keeps whether the layer that is being audited is being deleted.
func (s *Session) noteTorn(b *event.Batch) {
	if w := s.audited; w != nil && !w.mounted {
		s.torn = s.torn || slices.ContainsFunc(b.Files, func(e event.FileEvent) bool {
			return e.Layer == w.layer && e.Op == event.FileGone
		})
	}
}

// readLayer lists what is in the layer.
func readLayer(ctx context.Context, root string) ([]aggregate.Found, error) {
	var list lister
	if err := layer.Walk(ctx, root, &list); err != nil {
		return nil, err
	}
	return list.found, nil
}

// lister is a layer.Visitor that makes the list that aggregate.Compare wants.
type lister struct{ found []aggregate.Found }

func (l *lister) Visit(e *layer.Entry) error {
	if e.Whiteout && e.Allocated == 0 {
		return nil // all of them may share one inode
	}
	f := aggregate.Found{File: event.FileID{Inode: e.Inode}, Path: inContainer(e.Path), Dir: e.Dir(), Disk: e.Allocated}
	if !f.Dir {
		f.Size = e.Size
	}
	l.found = append(l.found, f)
	return nil
}

// inContainer turns a path of the walk into the container's.
func inContainer(path string) string {
	if path == "." {
		return "/"
	}
	return "/" + path
}

// doubt is a difference that may be just a race with a writer.
type doubt struct {
	diff aggregate.Diff
	// walked is what the walk said; nil if it did not come across the file.
	walked *aggregate.Found
	mark   mark
}

// doubts joins differences of files with what the walk said of them.
func doubts(found []aggregate.Found, diffs []aggregate.Diff) []doubt {
	list := make([]doubt, 0, len(diffs))
	at := make(map[uint64]int, len(diffs))
	for _, d := range diffs {
		if d.Whole() {
			continue
		}
		i := len(list)
		list = append(list, doubt{diff: d})
		if _, other := at[d.File.Inode]; d.File.Inode != 0 && !d.Gone && !other {
			at[d.File.Inode] = i
		}
	}
	for i := range found {
		f := &found[i]
		if k, ok := at[f.File.Inode]; ok && list[k].walked == nil {
			list[k].walked = f
		}
	}
	return list
}

// verify looks at each file again until nothing happened to it between two looks
// at the kernel side's ledger: then what stat says in between is what the books
// should say after everything was collected. A file that is never at rest is
// left to the ledger. With turn the caller is going to book what is returned, and
// the ledger is brought in step with it.
func (s *Session) verify(ctx context.Context, w *watched, root upperDir, open []doubt, turn bool) ([]aggregate.Diff, error) {
	var sure []aggregate.Diff
	for range auditRounds {
		if len(open) == 0 || ctx.Err() != nil {
			break
		}
		for i := range open {
			var err error
			if open[i].mark, err = s.mark(w, open[i].diff.File.Inode); err != nil {
				return nil, err
			}
		}
		if err := s.collectUnlessTorn(); err != nil {
			return nil, err
		}
		var restless []doubt
		for _, d := range open {
			diff, is, settled := s.look(w, root, &d)
			now, err := s.mark(w, d.diff.File.Inode)
			if err != nil {
				return nil, err
			}
			differs := diff.Size != 0 || diff.Disk != 0 || diff.Gone || diff.Nameless
			settled = settled && now.same(&d.mark)
			if settled && differs && turn && is != nil {
				if settled, err = s.turn(w, &d.mark, *is); err != nil {
					return nil, err
				}
			}
			switch {
			case !settled:
				restless = append(restless, d)
			case differs:
				sure = append(sure, diff)
			}
		}
		open = restless
	}
	if len(open) == 0 {
		// What is booked for the layer as a whole is what files lack, so it may
		// be taken back only if all of those are put right.
		sure = append(sure, s.agg.Loose(w.layer)...)
	}
	return sure, ctx.Err()
}

// look returns what the disk has beyond the books now, and what the file is on
// the disk if it was found there. settled is false if the answer may be wrong.
func (s *Session) look(w *watched, root upperDir, d *doubt) (diff aggregate.Diff, is *sizes, settled bool) {
	diff = d.diff
	booked := s.agg.Booked(w.layer, diff.File)
	st, found := root.stat(diff.File.Inode, diff.Path, booked.Path)
	walked := d.walked
	if d.mark.known && diff.File.Generation != 0 && d.mark.page.File != diff.File {
		walked, found = nil, false // another file has got the number
	}
	switch {
	case booked.Ending:
		return diff, nil, false
	case found && (booked.Named || walked != nil):
		diff.Size, diff.Disk, diff.Gone = st.size-booked.Size, st.disk-booked.Disk, false
		diff.Nameless = booked.Known && !booked.Named
		return diff, &st, true
	case found:
		return diff, nil, false
	case booked.Named:
		diff.Size, diff.Disk = -booked.Size, -booked.Disk
		return diff, nil, walked == nil && diff.Gone
	case walked == nil && !diff.Gone: // bytes that stayed behind on a file without a name
		diff.Size, diff.Disk = -booked.Size, -booked.Disk
		return diff, nil, true
	default:
		return aggregate.Diff{}, nil, true // the news of its deletion has come
	}
}

// mark is the ledger's page of an inode at one moment.
type mark struct {
	page  tracer.Entry
	known bool
}

// same reports whether nothing was booked on the file between the two moments.
func (m *mark) same(other *mark) bool {
	return m.known == other.known && m.page.File == other.page.File && m.page.Events == other.page.Events
}

func (s *Session) mark(w *watched, inode uint64) (mark, error) {
	return markOf(s.cfg.Kernel, w.upper.dev, inode)
}

func markOf(kernel Kernel, dev, inode uint64) (mark, error) {
	if inode == 0 {
		return mark{}, nil
	}
	e, ok, err := kernel.Entry(dev, inode)
	if err != nil || !ok {
		return mark{}, err
	}
	return mark{page: e, known: true}, nil
}

// turn brings the ledger in step with what a file is on the disk, since the
// difference is about to be booked: the next hook must not book it again. false:
// something has happened to the file since m, and there may be no difference.
func (s *Session) turn(w *watched, m *mark, is sizes) (bool, error) {
	if !m.known {
		return true, nil
	}
	return s.cfg.Kernel.Turn(w.upper.dev, m.page, is.size, is.disk)
}

// upperDir is an open layer. Processes of the container may change anything in
// it at any time, so paths are looked up so that no symlink leads out of it.
type upperDir struct{ fd int }

func openRoot(u upper) (upperDir, error) {
	fd, err := unix.Open(u.path, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return upperDir{}, &fs.PathError{Op: "open", Path: u.path, Err: err}
	}
	return upperDir{fd}, nil
}

func (u upperDir) close() { _ = unix.Close(u.fd) }

// stat returns the sizes of the inode if one of the container paths leads to it.
func (u upperDir) stat(inode uint64, paths ...string) (sizes, bool) {
	for _, path := range paths {
		if st, ok := u.statPath(path); ok && st.Ino == inode {
			return sizesOf(&st), true
		}
	}
	return sizes{}, false
}

func (u upperDir) statPath(path string) (st unix.Stat_t, ok bool) {
	fd, ok := u.open(path)
	if !ok {
		return st, false
	}
	defer unix.Close(fd)
	return st, unix.Fstat(fd, &st) == nil
}

// open opens what a container path leads to (O_PATH).
func (u upperDir) open(path string) (fd int, ok bool) {
	if len(path) == 0 || path[0] != '/' {
		return -1, false // not known to its beginning
	}
	relative := path[1:]
	if relative == "" {
		relative = "."
	}
	dir := u.fd
	for {
		var part string
		part, relative = cutPath(relative)
		fd, err := unix.Openat2(dir, part, &unix.OpenHow{
			Flags:   unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
			Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
		})
		if dir != u.fd {
			unix.Close(dir)
		}
		if err != nil {
			return -1, false
		}
		if relative == "" {
			return fd, true
		}
		dir = fd
	}
}

// cutPath cuts what one system call takes off the front of a path.
func cutPath(path string) (front, rest string) {
	if len(path) < unix.PathMax {
		return path, ""
	}
	end := strings.LastIndexByte(path[:unix.PathMax], '/')
	if end < 0 {
		return path, "" // no path of the layer: a component has 255 bytes at most
	}
	return path[:end], path[end+1:]
}

// sizesOf returns what a layer counts of an inode: directories have no size.
func sizesOf(st *unix.Stat_t) sizes {
	was := sizes{size: st.Size, disk: st.Blocks * 512}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		was.size = 0
	}
	return was
}
