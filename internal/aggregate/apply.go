package aggregate

import (
	"slices"

	"github.com/layertrace/layertrace/tracer/event"
)

// state takes over what the kernel side says of the layer as a whole.
func (l *layer) state(s *event.LayerState) {
	l.mounted = s.Mounted
	if l.openDeleted != s.OpenDeleted {
		l.openDeleted = s.OpenDeleted
		l.dirty = true
	}
}

// file applies an event of the tree.
func (l *layer) file(e *event.FileEvent, p procID) {
	parent := l.obtain(e.Parent)
	if parent != 0 && l.tree.at(parent).origin == originUnknown {
		l.tree.at(parent).origin = originDirectory
	}
	if e.Op == event.FileWhiteout && e.File.Inode == 0 {
		k := nameKey{kind: kindWhiteout, parent: parent, proc: p, name: e.Name}
		l.accNamed(k, 0).causes |= event.CauseDelete
		l.whiteouts[dirent{parent, e.Name}] = k
		return
	}
	if e.Op != event.FileGone && e.Op != event.FileUnlinked {
		l.replaceWhiteout(dirent{parent, e.Name})
	}
	if e.Op == event.FileGone {
		l.gone(e.File)
		return
	}
	id := l.obtain(e.File)
	if id == 0 {
		return
	}
	n := l.tree.at(id)
	switch {
	case isDir(e.Mode):
		n.origin = originDirectory
	case e.Op == event.FileWhiteout:
		n.origin = originWhiteout
	case e.Op == event.FileCopiedUp:
		n.origin = originCopiedUp
	case n.origin == originUnknown && (e.Mode != 0 || e.Op != event.FileUnlinked):
		n.origin = originAdded
	}
	if !l.seeded {
		switch e.Op {
		case event.FileUnlinked:
			l.lost[nodeName{id, dirent{parent, e.Name}}] = struct{}{}
		case event.FileRenamed, event.FileLinked:
			l.lost[nodeName{0, dirent{parent, e.Name}}] = struct{}{}
		}
	}
	if e.Op != event.FileUnlinked {
		l.replace(id, parent, e.Name, p)
	}
	switch e.Op {
	case event.FileCreated:
		l.supersede(id)
		if e.Name == "" {
			n.flags |= flagUnresolved // there is no name to be missed
			break
		}
		l.tree.addName(id, parent, e.Name)
		l.acc(id, p).causes |= event.CauseCreate
	case event.FileCopiedUp:
		l.supersede(id)
		l.tree.addName(id, parent, e.Name)
		l.acc(id, p).causes |= event.CauseCopyUp
	case event.FileWhiteout:
		l.supersede(id)
		l.tree.addName(id, parent, e.Name)
		l.acc(id, p).causes |= event.CauseRename
	case event.FileLinked:
		if !n.linked() {
			l.tree.addName(id, parent, e.Name)
			l.acc(id, p).causes |= event.CauseCreate
		} else if l.tree.addName(id, parent, e.Name) {
			l.accNamed(nameKey{kind: kindNewName, parent: parent, proc: p, name: e.Name}, id).causes |= event.CauseCreate
		}
	case event.FileRenamed:
		l.rename(id, parent, e.Name, p)
	case event.FileUnlinked:
		last := l.tree.dropName(id, parent, e.Name)
		if !l.seeded {
			n.flags &^= flagDoubt // the scan had just not come across that name
		}
		if last || n.is(flagDoubt) {
			l.acc(id, p).causes |= event.CauseDelete
		} else {
			l.accNamed(nameKey{kind: kindLostName, parent: parent, proc: p, name: e.Name}, id).causes |= event.CauseDelete
		}
	}
	l.count(n)
}

// replaceWhiteout takes back what was to be told of a whiteout in this interval:
// something of that name has taken its place.
func (l *layer) replaceWhiteout(d dirent) {
	k, ok := l.whiteouts[d]
	if !ok {
		return
	}
	delete(l.whiteouts, d)
	l.accs[l.named[k]].merged = true
	delete(l.named, k)
}

// replace takes the name that an event gives to a node from whoever else has it:
// what is renamed to the name of another file replaces that, and this is all that
// tells of it.
func (l *layer) replace(id, parent nodeID, name string, p procID) {
	if victim := l.tree.holder(parent, name); victim != 0 && victim != id && l.tree.dropName(victim, parent, name) {
		l.count(l.tree.at(victim))
		l.replaced[victim] = p
	}
	if l.tree.hasName(id, parent, name) { // from the scan, which came after that
		l.tree.index(id, parent, name)
	}
}

func (l *layer) rename(id, parent nodeID, name string, p procID) {
	n := l.tree.at(id)
	n.flags |= flagRenamed
	if l.tree.hasName(id, parent, name) { // the scan has seen it after that
		l.acc(id, p).causes |= event.CauseRename
		return
	}
	if n.aliased && n.parent != parent {
		// The event does not say which of several names was changed; one in
		// the same directory is likelier.
		as := l.tree.aliases[id]
		if i := slices.IndexFunc(as, func(d dirent) bool { return d.parent == parent }); i >= 0 {
			l.tree.preferName(id, i)
		}
	}
	var previous filePath
	// Of two that are exchanged, the one that is named first replaces the other.
	if _, exchanged := l.replaced[id]; exchanged || n.linked() {
		delete(l.replaced, id)
		previous = newPaths(&l.tree).of(id)
	}
	l.tree.setName(id, parent, name)
	a := l.acc(id, p)
	a.causes |= event.CauseRename
	if previous.complete && a.extra == 0 {
		l.extras = append(l.extras, extra{kind: kindFile, previous: previous})
		a.extra = uint32(len(l.extras))
	}
}

// gone ends an inode's life. A layer that no overlay uses is being removed by its
// runtime, which is the layer's end and no change of it: the kernel side books
// nothing of that, and what still has a name here stays in the books, for the
// record of the removal to say what was lost. Files that were deleted before and
// were only open have lost their names by then.
func (l *layer) gone(f event.FileID) {
	id := l.tree.find(f)
	if id == 0 && !l.seeded {
		id = l.obtain(f) // of the baseline, but gone before the scan came to it
	}
	if id != 0 && (l.mounted || !l.tree.at(id).linked()) {
		l.end(id)
	}
}

// supersede ends the earlier lives of an inode number that a file has got, of which
// it may not be known that they were freed: the event was lost, or left aside by
// gone.
func (l *layer) supersede(id nodeID) {
	for older := l.tree.at(id).next; older != 0; older = l.tree.at(older).next {
		l.end(older)
	}
}

func (l *layer) end(id nodeID) {
	n := l.tree.at(id)
	if n.is(flagGone) {
		return
	}
	l.tree.dropAllNames(id)
	n.flags |= flagGone
	l.count(n)
	l.graveyard = append(l.graveyard, grave{id, l.batches})
}

// delta books what a process did to a file.
func (l *layer) delta(d *event.Delta, p procID) {
	if d.Size == 0 && d.Disk == 0 && d.Written == 0 && d.CopyUp == 0 && d.Causes&structural == 0 {
		l.lateCause(d, p)
		return
	}
	l.grown.add(d.Size, d.Disk)
	l.written += d.Written
	l.copyUp += d.CopyUp
	if p == 0 {
		l.unattributed.add(d.Size, d.Disk)
	}
	var a *acc
	if id := l.obtain(d.File); id != 0 {
		n := l.tree.at(id)
		n.size += d.Size
		n.disk += d.Disk
		n.grown += d.Size
		n.grownDisk += d.Disk
		n.written += d.Written
		a = l.acc(id, p)
	} else {
		a = l.accNamed(nameKey{kind: kindWhole, proc: p}, 0)
	}
	a.size += d.Size
	a.disk += d.Disk
	a.copyUp += d.CopyUp
	a.written += d.Written
	a.writes += d.Writes
	a.causes |= d.Causes
}

// lateCause deals with a cause that comes alone. What a call allocates is booked at
// once, and its cause when it returns: if counters were collected in between, that is
// said of what they told.
func (l *layer) lateCause(d *event.Delta, p procID) {
	id := l.tree.find(d.File)
	if id == 0 || d.Causes == 0 || p == 0 {
		return
	}
	if a, _ := l.findAcc(id, p); a != nil {
		a.causes |= d.Causes
	} else if _, ok := l.uncaused[accKey(id, p)]; ok {
		l.acc(id, p).causes = d.Causes
	}
}

func (l *layer) overflow(o *event.Overflow) {
	l.overflowed.add(o.Size, o.Disk)
	l.delta(&event.Delta{Size: o.Size, Disk: o.Disk, CopyUp: o.CopyUp, Written: o.Written}, 0)
}

// audit books growth of a file (or, with node 0 and no path, of the layer as a
// whole) that nobody is known to have caused.
func (l *layer) audit(id nodeID, path string, size, disk int64) {
	l.grown.add(size, disk)
	l.unattributed.add(size, disk)
	var a *acc
	if id != 0 {
		n := l.tree.at(id)
		n.size += size
		n.disk += disk
		n.grown += size
		n.grownDisk += disk
		a = l.acc(id, 0)
	} else {
		a = l.accNamed(nameKey{kind: kindWhole, name: path}, 0)
	}
	a.size += size
	a.disk += disk
}
