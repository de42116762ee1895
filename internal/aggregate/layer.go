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
	overflowed   sums // part of it: growth for which there was no counter
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
	replaced map[nodeID]procID
	crowd    map[uint64]uint32 // node<<32|proc: accs beyond chainMax
	// uncaused are accs, by node<<32|proc, of which the interval before had to tell
	// without a cause: it ended in the midst of a call, whose end tells the cause.
	uncaused      map[uint64]struct{}
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

// open reports whether the last Deltas may be yet to come.
func (g *grave) open(l *layer) bool { return g.batch >= l.batches }

func newLayer(id event.LayerID, c record.Container) *layer {
	return &layer{
		id: id, meta: c, mounted: true,
		tree:          newTree(),
		named:         make(map[nameKey]uint32),
		whiteouts:     make(map[dirent]nameKey),
		replaced:      make(map[nodeID]procID),
		crowd:         make(map[uint64]uint32),
		uncaused:      make(map[uint64]struct{}),
		lost:          make(map[nodeName]struct{}),
		coveredAt:     make(map[coveredKey]int),
		coveredTotals: make(map[record.Storage]*record.CoveredTotal),
		tops:          newTops(),
	}
}

// --- nodes ---

// obtain returns the node of a life of an inode, made if need be; 0 for the zero id.
func (l *layer) obtain(f event.FileID) nodeID {
	if f.Inode == 0 {
		return 0
	}
	id := l.tree.find(f)
	if id == 0 {
		id = l.tree.add(f)
	}
	return id
}

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

// --- accumulators ---

func accKey(id nodeID, p procID) uint64 { return uint64(id)<<32 | uint64(p) }

// acc returns the interval's acc of a file and a process. The pointer is valid
// until the next call of acc or accNamed.
func (l *layer) acc(id nodeID, p procID) *acc {
	a, crowded := l.findAcc(id, p)
	if a != nil {
		return a
	}
	n := l.tree.at(id)
	if crowded {
		l.crowd[accKey(id, p)] = uint32(len(l.accs))
		l.accs = append(l.accs, acc{node: id, proc: p})
		return &l.accs[len(l.accs)-1]
	}
	l.accs = append(l.accs, acc{node: id, proc: p, next: n.pending})
	n.pending = uint32(len(l.accs))
	return &l.accs[n.pending-1]
}

// findAcc is acc for one that there is; nil if there is none. crowded tells that a new
// one belongs into layer.crowd.
func (l *layer) findAcc(id nodeID, p procID) (found *acc, crowded bool) {
	at, steps := l.tree.at(id).pending, 0
	for at != 0 && steps < chainMax {
		a := &l.accs[at-1]
		if a.proc == p && (a.extra == 0 || l.extras[a.extra-1].kind == kindFile) {
			return a, false
		}
		at, steps = a.next, steps+1
	}
	if steps < chainMax {
		return nil, false
	}
	if i, ok := l.crowd[accKey(id, p)]; ok {
		return &l.accs[i], true
	}
	return nil, true
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
		if g.open(l) || !l.seeded { // the scan may still tell its name
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
