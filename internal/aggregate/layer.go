package aggregate

import (
	"slices"

	"github.com/layertrace/layertrace/internal/record"
	"github.com/layertrace/layertrace/tracer/event"
)

// structural causes are worth a record even if not a byte changed.
const structural = event.CauseCreate | event.CauseDelete | event.CauseRename | event.CauseCopyUp

// sums are sizes and disk space that belong together.
type sums struct{ size, disk int64 }

func (s *sums) add(size, disk int64) { s.size += size; s.disk += disk }

// acc gathers what one process did to one file in the interval.
type acc struct {
	node   nodeID // 0: see extra
	proc   procID // 0: not known
	next   uint32 // 1 + index of the node's next acc
	extra  uint32 // 1 + index into layer.extras
	size   int64
	disk   int64
	copyUp int64

	written uint64
	writes  uint64
	causes  event.Causes
	merged  bool // its sums were moved to another acc
}

// merge adds o's sums.
func (a *acc) merge(o *acc) {
	a.size += o.size
	a.disk += o.disk
	a.copyUp += o.copyUp
	a.written += o.written
	a.writes += o.writes
	a.causes |= o.causes
}

// kind says what an acc's extra, or a key of layer.named, stands for.
type kind uint8

const (
	// kindFile: a file by its own name; the extra only adds its previous path.
	kindFile kind = iota
	// kindWhiteout: a name of the image that the layer now hides.
	kindWhiteout
	// kindNewName and kindLostName: a further name of a hard-linked file.
	kindNewName
	kindLostName
	// kindWhole: the layer as a whole, no file being known.
	kindWhole
	// kindDead: files that came and went under one name in one interval.
	kindDead
)

// extra holds what few accs need.
type extra struct {
	kind     kind
	parent   nodeID
	name     string
	previous filePath
}

// nameKey finds the acc of something that is told apart by its name.
type nameKey struct {
	kind   kind
	origin origin
	parent nodeID
	proc   procID
	name   string
}

// coveredKey finds what one process wrote to one file outside the layer.
type coveredKey struct {
	device, inode uint64
	proc          procID
}

type coveredAcc struct {
	event.Covered // the latest, with sums over the interval
	proc          procID
}

// chainMax is how many accs hang on a node before a map is used: files are
// mostly written by one process, rarely by thousands.
const chainMax = 16

// layer is the state of one layer.
type layer struct {
	id   event.LayerID
	meta record.Container
	tree tree

	base, grown  sums
	unattributed sums
	filtered     sums
	written      uint64
	copyUp       int64
	openDeleted  int64
	files        int64
	seeded       bool // SeedDone was called
	// lost holds, until then, the names that nodes lost; of those that went to
	// others it was whoever had them, node 0.
	lost      map[nodeName]struct{}
	vanished  []Baseline // those that are Gone, until then
	announced bool       // a layer record was returned
	dirty     bool       // totals changed since the last layer record
	accs      []acc
	extras    []extra
	named     map[nameKey]uint32 // index into accs
	// whiteouts of this interval that nothing has replaced yet.
	whiteouts map[dirent]nameKey
	// replaced are the nodes whose last names were taken by others in this
	// interval, and who did that.
	replaced      map[nodeID]procID
	crowd         map[uint64]uint32 // node<<32|proc: accs beyond chainMax
	covered       []coveredAcc
	coveredAt     map[coveredKey]int
	batches       uint64 // applied so far
	graveyard     []grave
	mounted       bool // at the end of the last batch
	tops          tops
	coveredTotals map[record.Storage]*record.CoveredTotal
	log           logState
}

// grave is a node whose inode was freed. The kernel side reads names after
// counters, so that the last Deltas may come with the batch after the one that
// said FileGone; the node waits for them.
type grave struct {
	id    nodeID
	batch uint64
}

func newLayer(id event.LayerID, c record.Container) *layer {
	return &layer{
		id: id, meta: c, mounted: true,
		tree:          newTree(),
		named:         make(map[nameKey]uint32),
		whiteouts:     make(map[dirent]nameKey),
		replaced:      make(map[nodeID]procID),
		crowd:         make(map[uint64]uint32),
		lost:          make(map[nodeName]struct{}),
		coveredAt:     make(map[coveredKey]int),
		coveredTotals: make(map[record.Storage]*record.CoveredTotal),
		tops:          newTops(),
	}
}

// --- nodes ---

// obtain returns the node of a life of an inode that the kernel side speaks of,
// made if need be; 0 for the zero id. While the baseline is being scanned, a
// generation that turns up for an inode that only the scan has spoken of, as
// generation 0, shows that the scan saw this very life of it: that was no
// baseline.
func (l *layer) obtain(f event.FileID) nodeID {
	if f.Inode == 0 {
		return 0
	}
	id := l.tree.find(f)
	if id == 0 && f.Generation != 0 && !l.seeded {
		id = l.claim(f)
	}
	if id == 0 {
		id = l.tree.add(f)
	}
	if f.Generation == 0 {
		l.tree.at(id).flags |= flagTold
	}
	return id
}

// claim gives the node that a scan made for the inode the generation that it
// really has; 0 if there is none. Its names come from the kernel side, too.
func (l *layer) claim(f event.FileID) nodeID {
	id := l.tree.find(event.FileID{Inode: f.Inode})
	if id == 0 || id == l.tree.root {
		return 0
	}
	n := l.tree.at(id)
	if n.flags&(flagTold|flagGone) != 0 {
		return 0
	}
	n.gen = f.Generation
	l.tree.forgetNames(id)
	l.count(n)
	l.rebase(n, n.grown, n.grownDisk)
	n.flags &^= flagSeeded
	return id
}

// rebase changes a node's baseline so that it now has the given sizes.
func (l *layer) rebase(n *node, size, disk int64) {
	l.base.add(size-n.size, disk-n.disk)
	n.size, n.disk = size, disk
}

// seedNode finds the node that a scan means, which knows no generations. late
// reports that it is a file that came to life after the baseline.
func (l *layer) seedNode(f event.FileID) (id nodeID, late bool) {
	if f.Inode == 0 {
		return 0, false
	}
	id = l.tree.find(f)
	if f.Generation != 0 {
		return l.obtain(f), true
	}
	newer := l.tree.byInode[f.Inode]
	if id != 0 && (!l.tree.at(id).is(flagGone) || newer == id) {
		return id, false
	}
	if cur := l.tree.current(f.Inode); cur != 0 {
		return cur, true
	}
	if newer != 0 {
		return newer, true
	}
	return l.tree.add(f), false
}

func (l *layer) seed(b *Baseline) {
	if b.Gone {
		l.vanished = append(l.vanished, *b)
		return
	}
	id, late := l.seedNode(b.File)
	if id == 0 {
		return
	}
	n := l.tree.at(id)
	o := parseOrigin(b.Origin)
	if isDir(b.Mode) {
		o = originDirectory
	}
	if n.origin == originUnknown {
		n.origin = o
	}
	if b.Parent == (event.FileID{}) && b.Name == "" {
		l.tree.root = id
		n.origin = originDirectory
	} else if o != originWhiteout && !(late && n.is(flagNamed)) {
		// Whiteouts share an inode and have no content; and of a file that came
		// to life later the kernel side tells all names.
		l.seedName(id, n, b)
	}
	l.count(n)
	if late || n.is(flagSeeded) {
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

func (l *layer) seedName(id nodeID, n *node, b *Baseline) {
	parent, _ := l.seedNode(b.Parent)
	if parent != 0 && l.tree.at(parent).origin == originUnknown {
		l.tree.at(parent).origin = originDirectory
	}
	switch {
	case n.is(flagGone):
	case l.hasLost(id, parent, b.Name), l.hasLost(0, parent, b.Name) && !l.tree.hasName(id, parent, b.Name):
		// The scan came before that.
		if !n.linked() {
			l.tree.dropName(id, parent, b.Name)
		}
	case n.is(flagRenamed) && b.Links < 2:
		// The scan came before the renaming.
	default:
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
		n := l.tree.at(id)
		switch {
		case n.origin != originUnknown:
		case isDir(b.Mode):
			n.origin = originDirectory
		default:
			n.origin = originAdded
		}
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
// it had. So do those of one that was freed, where the scan may have seen the
// next life of the inode number instead, once all of them are there.
func (l *layer) seedDone() {
	if l.seeded {
		return
	}
	l.nameVanished()
	l.tree.each(func(_ nodeID, n *node) {
		if n.gen == 0 && !n.linked() && !n.is(flagSeeded) {
			l.rebase(n, 0, 0)
		}
	})
	for _, g := range l.graveyard {
		if n := l.tree.at(g.id); n.gen == 0 && g.batch < l.batches {
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

func isDir(mode uint32) bool { return mode&modeType == modeDir }

// count keeps layer.files up to date after a node's names may have changed.
func (l *layer) count(n *node) {
	is := n.linked() && !n.dir() && n.origin != originWhiteout && n.origin != originUnknown
	if is == n.is(flagCounted) {
		return
	}
	n.flags ^= flagCounted
	if is {
		l.files++
	} else {
		l.files--
	}
	l.dirty = true
}

// --- events ---

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

func (l *layer) overflow(o *event.Overflow) {
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

// --- accumulators ---

// acc returns the interval's acc of a file and a process. The pointer is valid
// until the next call of acc or accNamed.
func (l *layer) acc(id nodeID, p procID) *acc {
	n := l.tree.at(id)
	at, steps := n.pending, 0
	for at != 0 && steps < chainMax {
		a := &l.accs[at-1]
		if a.proc == p && (a.extra == 0 || l.extras[a.extra-1].kind == kindFile) {
			return a
		}
		at, steps = a.next, steps+1
	}
	key := uint64(id)<<32 | uint64(p)
	if steps == chainMax {
		if i, ok := l.crowd[key]; ok {
			return &l.accs[i]
		}
		l.crowd[key] = uint32(len(l.accs))
		l.accs = append(l.accs, acc{node: id, proc: p})
		return &l.accs[len(l.accs)-1]
	}
	l.accs = append(l.accs, acc{node: id, proc: p, next: n.pending})
	n.pending = uint32(len(l.accs))
	return &l.accs[n.pending-1]
}

// accNamed returns the interval's acc of something that has no node, or of one
// of several names of node id. The same validity.
func (l *layer) accNamed(k nameKey, id nodeID) *acc {
	if i, ok := l.named[k]; ok {
		a := &l.accs[i]
		a.node = id
		return a
	}
	l.extras = append(l.extras, extra{kind: k.kind, parent: k.parent, name: k.name})
	l.named[k] = uint32(len(l.accs))
	l.accs = append(l.accs, acc{node: id, proc: k.proc, extra: uint32(len(l.extras))})
	return &l.accs[len(l.accs)-1]
}

// cover gathers a write outside the layer.
func (l *layer) cover(c *event.Covered, p procID) {
	k := coveredKey{c.Device, c.Inode, p}
	i, ok := l.coveredAt[k]
	if !ok {
		l.coveredAt[k] = len(l.covered)
		l.covered = append(l.covered, coveredAcc{*c, p})
		return
	}
	a := &l.covered[i]
	sum := *c
	sum.Size += a.Size
	sum.Written += a.Written
	sum.Writes += a.Writes
	sum.Causes |= a.Causes
	if sum.Path == "" {
		sum.Path = a.Path
	}
	a.Covered = sum
}

// clearInterval forgets the interval's accs, and buries what is gone.
func (l *layer) clearInterval() {
	for i := range l.accs {
		if id := l.accs[i].node; id != 0 {
			n := l.tree.at(id)
			n.pending = 0
			n.flags |= flagShown
		}
	}
	l.accs = reuse(l.accs)
	clear(l.extras)
	l.extras = reuse(l.extras)
	clear(l.named)
	clear(l.whiteouts)
	clear(l.replaced)
	clear(l.crowd)
	clear(l.covered)
	l.covered = reuse(l.covered)
	clear(l.coveredAt)
	l.graveyard = slices.DeleteFunc(l.graveyard, func(g grave) bool {
		if g.batch >= l.batches {
			return false
		}
		if n := l.tree.at(g.id); n.is(flagGone) {
			l.tops.bury(l, g.id)
			n.grown, n.grownDisk, n.written = 0, 0, 0
			n.flags |= flagBuried
			l.tree.release(g.id)
		}
		return true
	})
}

// reuse empties a slice for the next interval, unless it was grown by a burst
// and would now hold on to much unused memory.
func reuse[T any](s []T) []T {
	if cap(s) > 4096 && len(s) < cap(s)/16 {
		return nil
	}
	return s[:0]
}
