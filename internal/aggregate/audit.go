package aggregate

import (
	"cmp"
	"slices"
	"strings"

	"github.com/layertrace/layertrace/tracer/event"
)

// lifeOf finds the node an audit means: the very life, or with generation 0 the
// current one.
func (l *layer) lifeOf(f event.FileID) nodeID {
	if f.Inode == 0 {
		return 0
	}
	if f.Generation == 0 {
		return l.tree.current(f.Inode)
	}
	return l.tree.find(f)
}

// Compare holds a complete walk of the layer against the books and returns what
// differs, in the order of found, then what was not found by path, and last what
// is booked for the layer as a whole only. Reconciled, they make the books equal
// the walk. Compare changes nothing, so that differences which are just
// races with writers can be looked at again before they go to Reconcile. An inode
// with several names may come several times; the first counts. Whiteouts may be
// left out.
func (a *Aggregator) Compare(id event.LayerID, found []Found) []Diff {
	l := a.layers[id]
	if l == nil {
		return nil
	}
	var (
		diffs []Diff
		seen  = make([]uint64, l.tree.used/64+1)
		extra = make(map[event.FileID]struct{}) // seen, but not in the books
	)
	for i := range found {
		f := &found[i]
		size := f.Size
		if f.Dir {
			size = 0
		}
		at := l.lifeOf(f.File)
		if at == 0 {
			if _, ok := extra[f.File]; !ok {
				extra[f.File] = struct{}{}
				diffs = append(diffs, Diff{File: f.File, Path: f.Path, Size: size, Disk: f.Disk})
			}
			continue
		}
		if seen[at/64]&(1<<(at%64)) != 0 {
			continue
		}
		seen[at/64] |= 1 << (at % 64)
		n := l.tree.at(at)
		nameless := !n.linked() && at != l.tree.root && n.origin != originWhiteout
		if n.size != size || n.disk != f.Disk || nameless {
			diffs = append(diffs, Diff{
				File: event.FileID{Inode: n.inode, Generation: n.gen}, Path: f.Path,
				Size: size - n.size, Disk: f.Disk - n.disk, Nameless: nameless,
			})
		}
	}

	ps := newPaths(&l.tree)
	missing := len(diffs)
	l.tree.each(func(at nodeID, n *node) {
		if n.is(flagGone) || seen[at/64]&(1<<(at%64)) != 0 {
			return
		}
		gone := n.linked() && n.origin != originWhiteout
		if gone || n.size != 0 || n.disk != 0 {
			diffs = append(diffs, Diff{
				File: event.FileID{Inode: n.inode, Generation: n.gen}, Path: ps.of(at).text,
				Size: -n.size, Disk: -n.disk, Gone: gone,
			})
		}
	})
	slices.SortFunc(diffs[missing:], func(x, y Diff) int {
		return cmp.Or(
			strings.Compare(x.Path, y.Path),
			cmp.Compare(x.File.Inode, y.File.Inode),
			cmp.Compare(x.File.Generation, y.File.Generation),
		)
	})
	return append(diffs, a.Loose(id)...)
}

// Loose returns the Diff for what is booked for the layer as a whole, if there is any.
func (a *Aggregator) Loose(id event.LayerID) []Diff {
	if l := a.layers[id]; l != nil {
		if whole := l.loose(); whole != (sums{}) {
			return []Diff{{Size: -whole.size, Disk: -whole.disk}}
		}
	}
	return nil
}

// loose is what is booked for the layer as a whole and for none of its files: growth
// for which there was no counter, and what is left of files that are gone. A file that
// has just gone is one still: the last of it may come with the next batch.
func (l *layer) loose() sums {
	whole := sums{l.base.size + l.grown.size, l.base.disk + l.grown.disk}
	l.tree.each(func(_ nodeID, n *node) {
		if !n.is(flagGone) {
			whole.add(-n.size, -n.disk)
		}
	})
	for _, g := range l.graveyard {
		if n := l.tree.at(g.id); g.open(l) && n.is(flagGone) {
			whole.add(-n.size, -n.disk)
		}
	}
	return whole
}

// Booked is what the books say of one file.
type Booked struct {
	Path       string // as far as it is known
	Size, Disk int64
	// Known: there is such a file, Named: which has a name (or is the root).
	Known, Named bool
	// Ending: it has just gone, and the last of its growth may come with the next
	// batch.
	Ending bool
}

// Booked returns what the books say of one file. Generation 0 stands for the current
// life of the inode.
func (a *Aggregator) Booked(id event.LayerID, f event.FileID) Booked {
	l := a.layers[id]
	if l == nil {
		return Booked{}
	}
	at := l.lifeOf(f)
	if at == 0 {
		return Booked{}
	}
	n := l.tree.at(at)
	b := Booked{Size: n.size, Disk: n.disk, Known: true, Named: n.linked() || at == l.tree.root}
	if b.Named {
		b.Path = newPaths(&l.tree).of(at).text
	}
	b.Ending = n.is(flagGone) && slices.ContainsFunc(l.graveyard, func(g grave) bool { return g.id == at && g.open(l) })
	return b
}

// Reconcile books what an audit of the disk found as unattributed growth, which
// the next Flush, Removed or Final reports. Afterwards the books equal the disk. What
// was booked for the layer as a whole, and turns out to be a file's, is taken back; of
// the Diff for the whole, which comes last, that is done with all there is.
func (a *Aggregator) Reconcile(id event.LayerID, diffs []Diff) {
	l := a.layers[id]
	if l == nil {
		return
	}
	if l.overflowed != (sums{}) {
		// Some may have gone with the files that it was of.
		whole := l.loose()
		l.overflowed = sums{common(l.overflowed.size, whole.size), common(l.overflowed.disk, whole.disk)}
	}
	for i := range diffs {
		d := &diffs[i]
		if d.Whole() {
			if whole := l.loose(); whole != (sums{}) {
				l.audit(0, "", -whole.size, -whole.disk)
			}
			l.overflowed = sums{}
			continue
		}
		l.reconcile(d)
		back := sums{common(l.overflowed.size, d.Size), common(l.overflowed.disk, d.Disk)}
		if back != (sums{}) {
			l.overflowed.add(-back.size, -back.disk)
			l.audit(0, "", -back.size, -back.disk)
		}
	}
}

// common is how much of x is in y: 0 if they have different signs.
func common(x, y int64) int64 {
	switch {
	case x > 0 && y > 0:
		return min(x, y)
	case x < 0 && y < 0:
		return max(x, y)
	}
	return 0
}

func (l *layer) reconcile(d *Diff) {
	at := l.lifeOf(d.File)
	if at == 0 && d.File.Inode != 0 && !d.Gone {
		if at = l.tree.find(d.File); at == 0 {
			at = l.tree.add(d.File)
		}
	}
	if at != 0 {
		n := l.tree.at(at)
		if n.is(flagGone) && !d.Gone {
			// The number is used again; what is left of the old life is the
			// layer's.
			n.flags &^= flagGone | flagBuried
			n.size, n.disk, n.grown, n.grownDisk = 0, 0, 0, 0
		}
		// Whatever a scan says of it later is in the books now.
		n.flags |= flagSeeded
		switch {
		case d.Gone:
			l.tree.dropAllNames(at)
		case (d.Nameless || !n.is(flagNamed)) && !n.linked() && at != l.tree.root && strings.HasPrefix(d.Path, "/"):
			// Its directory is not known by number; that of the layer with the
			// whole path as its name is as good until it is renamed.
			l.tree.setName(at, l.tree.root, d.Path[1:])
			if n.origin == originUnknown {
				n.origin = originAdded
			}
		}
		l.count(n)
	}
	if d.Size != 0 || d.Disk != 0 {
		l.audit(at, d.Path, d.Size, d.Disk)
	} else if at != 0 && d.Gone {
		l.acc(at, 0)
	}
}
