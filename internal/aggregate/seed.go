package aggregate

import "github.com/layertrace/layertrace/tracer/event"

// rebase changes a node's baseline so that it now has the given sizes.
func (l *layer) rebase(n *node, size, disk int64) {
	l.base.add(size-n.size, disk-n.disk)
	n.size, n.disk = size, disk
}

func (l *layer) seed(b *Baseline) {
	if b.Gone {
		l.vanished = append(l.vanished, *b)
		return
	}
	id := l.obtain(b.File)
	if id == 0 {
		return
	}
	n := l.tree.at(id)
	o := n.seedOrigin(b)
	if b.Parent == (event.FileID{}) && b.Name == "" {
		l.tree.root = id
		n.origin = originDirectory
	} else if o != originWhiteout { // those share an inode and have no content
		l.seedName(id, n, b)
	}
	l.count(n)
	if b.Further || n.is(flagSeeded) {
		return
	}
	n.flags |= flagSeeded
	size := b.Size
	if n.dir() {
		size = 0
	}
	if !l.seeded {
		l.rebase(n, n.size+size, n.disk+b.Disk)
	} else if !n.is(flagDeleted) && (size != 0 || b.Disk != 0) {
		l.audit(id, "", size, b.Disk)
	}
}

// seedOrigin returns what the scan says of the origin, and has the node take it over if
// it has none. Of what has gone the scan knows only that it was there.
func (n *node) seedOrigin(b *Baseline) origin {
	o := parseOrigin(b.Origin)
	switch {
	case isDir(b.Mode):
		o = originDirectory
	case b.Gone:
		o = originAdded
	}
	if n.origin == originUnknown {
		n.origin = o
	}
	return o
}

func (l *layer) seedName(id nodeID, n *node, b *Baseline) {
	parent := l.obtain(b.Parent)
	if parent != 0 && l.tree.at(parent).origin == originUnknown {
		l.tree.at(parent).origin = originDirectory
	}
	single := b.Links == 1 || isDir(b.Mode)
	switch {
	case n.is(flagGone):
		// What replaced it by a rename may be all that told of its end.
		if !n.is(flagNamed) {
			l.tree.dropName(id, parent, b.Name)
		}
	case l.hasLost(id, parent, b.Name), l.hasLost(0, parent, b.Name) && !l.tree.hasName(id, parent, b.Name):
		// The scan came before that.
		if !n.linked() {
			l.tree.dropName(id, parent, b.Name)
		}
	case n.is(flagRenamed) && (single || b.Links == 0):
		// The scan came before the renaming.
	case single && b.Further && n.is(flagSeeded) && n.linked() && !n.aliased:
		// It was moved while the scan ran, to where no event tells of.
		n.flags |= flagMoved
		l.tree.setName(id, parent, b.Name)
	case single && !b.Further && n.is(flagMoved):
		// The same, told the other way round.
	default:
		if single && b.Further {
			n.flags |= flagMoved
		}
		l.tree.addName(id, parent, b.Name)
	}
}

// nameVanished names inodes that were deleted while the baseline was taken, of which
// the kernel side has booked something: what replaced them by a rename is all that it
// tells of their end.
func (l *layer) nameVanished() {
	for i := range l.vanished {
		b := &l.vanished[i]
		id, parent := l.tree.find(b.File), l.tree.find(b.Parent)
		if id == 0 || parent == 0 || l.tree.at(id).is(flagNamed) {
			continue
		}
		l.tree.at(id).seedOrigin(b)
		l.tree.dropName(id, parent, b.Name)
	}
	l.vanished = nil
}

// disown makes growth of the baseline that nobody is known to have caused, but for
// the layer's own directory.
func (l *layer) disown() {
	l.tree.each(func(id nodeID, n *node) {
		size, disk := n.size-n.grown, n.disk-n.grownDisk
		if id == l.tree.root || size == 0 && disk == 0 {
			return
		}
		l.base.add(-size, -disk)
		l.grown.add(size, disk)
		l.unattributed.add(size, disk)
		n.grown += size
		n.grownDisk += disk
		a := l.acc(id, 0)
		a.size += size
		a.disk += disk
	})
}

// nodeName is a name of a node.
type nodeName struct {
	node nodeID
	dirent
}

func (l *layer) hasLost(id, parent nodeID, name string) bool {
	_, ok := l.lost[nodeName{id, dirent{parent, name}}]
	return ok
}

// seedDone closes the baseline. An inode of the baseline that lost its name
// before the scan came to it is down to nothing now, so that its deltas tell what
// it had. So do those of one that was freed, once all of them are there.
func (l *layer) seedDone() {
	if l.seeded {
		return
	}
	l.nameVanished()
	l.tree.each(func(_ nodeID, n *node) {
		if !n.born() && !n.linked() && !n.is(flagSeeded) {
			l.rebase(n, 0, 0)
		}
	})
	for _, g := range l.graveyard {
		if n := l.tree.at(g.id); !n.born() && !g.open(l) {
			l.rebase(n, 0, 0)
		}
	}
	l.seeded = true
	l.lost = nil
	l.dirty = true
}

const (
	modeType = 0o170000
	modeDir  = 0o040000
)
