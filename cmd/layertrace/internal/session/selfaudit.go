package session

import (
	"time"

	"github.com/layertrace/layertrace/internal/aggregate"
	"github.com/layertrace/layertrace/tracer/event"
)

const (
	// touchedMax bounds the files that one interval's self-audit looks at; each
	// takes some microseconds.
	touchedMax = 256
	// suspectsMax bounds the files of a layer that are looked at again in the
	// next interval.
	suspectsMax = 256
	// suspectAge is how long a difference must stay as it is. The kernel changes
	// a file's size before the hook at the end of the write runs, and a writer
	// may be preempted in between for as long as a busy machine likes.
	suspectAge = 10 * time.Second
)

// touch is a file that was written in the interval.
type touch struct {
	layer event.LayerID
	file  event.FileID
}

// suspect is a file whose books differed from the disk at the end of an interval.
type suspect struct {
	mark  mark
	diff  sizes // of the file on the disk to the books
	is    sizes // on the disk
	since time.Time
}

// noteTouched remembers which files the self-audit will look at.
func (s *Session) noteTouched(b *event.Batch) {
	for i := range b.Deltas {
		if len(s.touched) >= touchedMax {
			return
		}
		s.touched[touch{b.Deltas[i].Layer, b.Deltas[i].File}] = struct{}{}
	}
}

// selfAudit compares files that were touched in this interval, and those that
// were in doubt after the last one, with the disk. A difference goes to the
// books as unattributed only once it is suspectAge old and the kernel side has
// booked nothing on the file since: anything younger may be a write that happens
// to be halfway through. It looks at a bounded number of
// files; the audits at a container's stop and at the end of the run look at all.
func (s *Session) selfAudit() {
	check := make(map[*watched]map[event.FileID]struct{})
	add := func(w *watched, f event.FileID) {
		if check[w] == nil {
			check[w] = make(map[event.FileID]struct{})
		}
		check[w][f] = struct{}{}
	}
	for t := range s.touched {
		// Of a layer that is not mounted only its removal is left to be seen.
		if w := s.byLayer[t.layer]; w != nil && w.seeded && w.mounted {
			add(w, t.file)
		}
	}
	clear(s.touched)
	for _, w := range s.byLayer {
		for f := range w.suspects {
			add(w, f)
		}
	}
	for w, files := range check {
		s.selfAuditLayer(w, files)
	}
}

func (s *Session) selfAuditLayer(w *watched, files map[event.FileID]struct{}) {
	root, err := openRoot(w.upper)
	if err != nil {
		return // gone; its removal will be reported
	}
	defer root.close()
	before := w.suspects
	w.suspects = make(map[event.FileID]suspect)
	for f := range files {
		now, differs := s.inspect(w, root, f)
		if !differs {
			continue
		}
		now.since = s.cfg.Clock.Now()
		if was, ok := before[f]; ok && was.mark.same(&now.mark) && was.diff == now.diff {
			now.since = was.since
		}
		if s.cfg.Clock.Now().Sub(now.since) < suspectAge {
			if len(w.suspects) < suspectsMax {
				w.suspects[f] = now
			}
			continue
		}
		turned, err := s.turn(w, &now.mark, now.is)
		if err != nil || !turned {
			continue // touched again, so it will be looked at again
		}
		path := s.agg.Booked(w.layer, f).Path
		s.log.Info().Str("container", w.facts.Name).Str("path", path).
			Int64("size", now.diff.size).Int64("disk", now.diff.disk).Msg("growth that no hook saw")
		s.agg.Reconcile(w.layer, []aggregate.Diff{{File: f, Path: path, Size: now.diff.size, Disk: now.diff.disk}})
	}
}

// inspect compares one file with the disk. Files that are changing, deleted, or
// known without their path do not differ: there is no telling.
func (s *Session) inspect(w *watched, root upperDir, f event.FileID) (suspect, bool) {
	booked := s.agg.Booked(w.layer, f)
	if !booked.Named {
		return suspect{}, false
	}
	before, err := s.mark(w, f.Inode)
	if err != nil || !before.known || before.page.File != f {
		return suspect{}, false
	}
	st, found := root.stat(f.Inode, booked.Path)
	after, err := s.mark(w, f.Inode)
	if err != nil || !found || !after.same(&before) {
		return suspect{}, false
	}
	now := suspect{mark: before, diff: sizes{st.size - booked.Size, st.disk - booked.Disk}, is: st}
	return now, now.diff != sizes{}
}
