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
		if n := l.tree.at(at); n.size != size || n.disk != f.Disk {
			diffs = append(diffs, Diff{
				File: event.FileID{Inode: n.inode, Generation: n.gen}, Path: f.Path,
				Size: size - n.size, Disk: f.Disk - n.disk,
			})
		}
	}

	ps := newPaths(&l.tree)
	missing := len(diffs)
	whole := Diff{
		Size: l.base.size + l.grown.size,
		Disk: l.base.disk + l.grown.disk,
	}
	l.tree.each(func(at nodeID, n *node) {
		if n.is(flagGone) {
			return // what is left of it on the books is the layer's now
		}
		whole.Size -= n.size
		whole.Disk -= n.disk
		if seen[at/64]&(1<<(at%64)) != 0 {
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
	if whole.Size != 0 || whole.Disk != 0 {
		diffs = append(diffs, Diff{Size: -whole.Size, Disk: -whole.Disk})
	}
	return diffs
}

// Booked returns what the books say of one file: its path as known and its
// sizes. ok is false if the file is not known or has no name left. Generation 0
// stands for the current life of the inode.
func (a *Aggregator) Booked(id event.LayerID, f event.FileID) (path string, size, disk int64, ok bool) {
	l := a.layers[id]
	if l == nil {
		return "", 0, 0, false
	}
	at := l.lifeOf(f)
	if at == 0 {
		return "", 0, 0, false
	}
	n := l.tree.at(at)
	if !n.linked() && at != l.tree.root {
		return "", 0, 0, false
	}
	return newPaths(&l.tree).of(at).text, n.size, n.disk, true
}

// Reconcile books what an audit of the disk found as unattributed growth, which
// the next Flush, Removed or Final reports. Afterwards the books equal the disk.
func (a *Aggregator) Reconcile(id event.LayerID, diffs []Diff) {
	l := a.layers[id]
	if l == nil {
		return
	}
	for i := range diffs {
		l.reconcile(&diffs[i])
	}
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
		case !n.is(flagNamed) && at != l.tree.root && strings.HasPrefix(d.Path, "/"):
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
