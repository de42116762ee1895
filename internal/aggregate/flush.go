package aggregate

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/layertrace/layertrace/internal/record"
	"github.com/layertrace/layertrace/tracer/event"
)

// row is an acc on its way to becoming a growth record.
type row struct {
	acc    *acc
	path   filePath
	weight int64
	kind   kind
}

// flush appends the records of the layer's interval to res and begins the next
// one. always asks for the layer record even if nothing changed.
func (a *Aggregator) flush(res []record.Record, l *layer, now time.Time, always bool) []record.Record {
	res = a.flushGrowth(res, l, now)
	res = a.flushCovered(res, l, now)
	l.clearInterval()
	if always || l.dirty || !l.announced {
		res = append(res, &record.Layer{
			Header: record.NewHeader(record.TypeLayer, now),
			Totals: l.totals(),
			Files:  l.files,
		})
		l.announced, l.dirty = true, false
	}
	return l.flushLog(res, now, always)
}

func (a *Aggregator) flushGrowth(res []record.Record, l *layer, now time.Time) []record.Record {
	clear(l.uncaused)
	if len(l.accs) == 0 {
		return res
	}
	l.dirty = true
	l.settle()
	rows := a.rows(l)
	a.sortRows(rows)

	slab := make([]record.Growth, len(rows))
	res = slices.Grow(res, len(rows)+1)
	for i := range rows {
		g := &slab[i]
		g.Header = record.NewHeader(record.TypeGrowth, now)
		g.Container = l.meta
		a.fill(g, l, &rows[i])
		res = append(res, g)
	}
	return res
}

// settle resolves what had to wait for the interval's end: files whose deletion
// was seen under a name that they were not known to have, and files that came
// and went under one name, which become one.
func (l *layer) settle() {
	for id, p := range l.replaced {
		// What the layer lost by that may have been booked in the interval before.
		if l.tree.at(id).is(flagDeleted) {
			l.acc(id, p).causes |= event.CauseDelete
		}
	}
	for i := range l.accs {
		x := &l.accs[i]
		if x.node == 0 || x.extra != 0 && l.extras[x.extra-1].kind != kindFile {
			continue
		}
		n := l.tree.at(x.node)
		if n.is(flagDoubt) {
			if x.causes&event.CauseDelete != 0 && (x.size < 0 || x.disk < 0) && n.size == 0 && n.disk == 0 && !n.aliased {
				n.flags = n.flags&^flagDoubt | flagDeleted
				l.count(n)
			}
		}
		if !n.is(flagDeleted) || !n.is(flagNamed) {
			continue
		}
		if x.extra != 0 && n.flags&(flagShown|flagSeeded) != 0 {
			continue // known by another name until now, under which its end would not be told
		}
		k := nameKey{kind: kindDead, origin: n.origin, parent: n.parent, proc: x.proc, name: n.name}
		j, ok := l.named[k]
		if !ok {
			l.named[k] = uint32(i)
			continue
		}
		first := &l.accs[j]
		first.merge(x)
		// The record shows the latest of the files; both stay pending, so that
		// clearInterval finds their nodes.
		first.node, x.node = x.node, first.node
		if first.extra == 0 {
			first.extra = x.extra
		}
		x.merged = true
	}
}

// rows gives each acc its path, drops those that the filters drop, feeds the ranking
// of programs with all of them, and notes those whose cause may be yet to come.
func (a *Aggregator) rows(l *layer) []row {
	rows := make([]row, 0, len(l.accs))
	ps := newPaths(&l.tree)
	var unresolved, tooLong uint64
	for i := range l.accs {
		x := &l.accs[i]
		if x.merged {
			continue
		}
		if x.causes == 0 && x.node != 0 && x.proc != 0 && x.written == 0 {
			l.uncaused[accKey(x.node, x.proc)] = struct{}{}
		}
		r := row{acc: x, weight: max(abs(x.size), abs(x.disk))}
		if x.extra != 0 {
			r.kind = l.extras[x.extra-1].kind
		}
		switch r.kind {
		case kindFile:
			r.path = ps.of(x.node)
			if n := l.tree.at(x.node); !r.path.complete && !n.is(flagUnresolved) {
				n.flags |= flagUnresolved
				if r.path.tooLong {
					tooLong++
				} else {
					unresolved++
				}
			}
		case kindWhole:
			if e := &l.extras[x.extra-1]; e.name != "" {
				r.path = filePath{text: e.name, complete: strings.HasPrefix(e.name, "/")}
			}
		default:
			e := &l.extras[x.extra-1]
			r.path = ps.under(e.parent, e.name)
		}
		if x.proc != 0 {
			l.tops.program(l.id, &a.procs, x)
		}
		if r.path.text != "" && (r.weight < a.cfg.MinGrowth || !a.filter.keeps(r.path)) {
			l.filtered.add(x.size, x.disk)
			continue
		}
		rows = append(rows, r)
	}
	if unresolved > 0 {
		a.lose(lossCount{l.id, record.LossUnresolved, unresolved, 0})
	}
	if tooLong > 0 {
		a.lose(lossCount{l.id, string(event.LossPathTooLong), tooLong, 0})
	}
	return rows
}

func abs(n int64) int64 {
	if n < 0 {
		return -n
	}
	return n
}

func (a *Aggregator) sortRows(rows []row) {
	slices.SortFunc(rows, func(x, y row) int {
		if x.weight != y.weight {
			return cmp.Compare(y.weight, x.weight)
		}
		if c := strings.Compare(x.path.text, y.path.text); c != 0 {
			return c
		}
		px, py := &a.procs.list[x.acc.proc].id, &a.procs.list[y.acc.proc].id
		return cmp.Or(
			cmp.Compare(px.PID, py.PID), cmp.Compare(px.Start, py.Start), cmp.Compare(px.Exec, py.Exec),
			cmp.Compare(x.kind, y.kind), cmp.Compare(x.acc.node, y.acc.node),
		)
	})
}

// fill completes a growth record of the layer.
func (a *Aggregator) fill(g *record.Growth, l *layer, r *row) {
	x := r.acc
	g.Process = a.procs.record(x.proc)
	g.Storage.Class = record.ClassLayer
	g.WrittenBytes, g.Writes = x.written, x.writes
	g.SizeGrowth, g.DiskGrowth, g.CopyUpBytes = x.size, x.disk, x.copyUp

	f := &g.File
	f.Path, f.PathB64 = record.Text(r.path.text)
	f.PathIncomplete = !r.path.complete && r.path.text != ""
	causes := x.causes
	switch {
	case r.kind == kindWhiteout:
		f.Origin = record.OriginWhiteout
		f.Deleted = true
	case x.node != 0:
		n := l.tree.at(x.node)
		f.Inode = n.inode
		f.Origin = n.origin.String()
		f.Deleted = n.is(flagDeleted) || r.kind == kindLostName
		if !f.Deleted {
			f.Allocated = n.disk
			if !n.dir() {
				f.Size = n.size
			}
		}
		if r.kind == kindFile && x.extra != 0 {
			if p := l.extras[x.extra-1].previous; p.text != r.path.text {
				f.PreviousPath, f.PreviousPathB64 = record.Text(p.text)
			}
		}
		if causes == 0 && n.dir() {
			causes = event.CauseMetadata
		}
	}
	if causes == 0 {
		causes = event.CauseWrite
	}
	g.Causes = a.causeNames(causes, x.proc != 0)
}

// causeNames returns the shared names of a set of causes. Where nobody is known
// to have caused anything, that is what is said.
func (a *Aggregator) causeNames(c event.Causes, attributed bool) []string {
	if !attributed {
		c = 0
	}
	names, ok := a.causes[c]
	if !ok {
		names = listCauses(c)
		a.causes[c] = names
	}
	return names
}

func listCauses(c event.Causes) []string {
	if c == 0 {
		return []string{record.CauseUnattributed}
	}
	var names []string
	for _, x := range [...]struct {
		bit  event.Causes
		name string
	}{
		{event.CauseWrite, record.CauseWrite},
		{event.CauseCopyUp, record.CauseCopyUp},
		{event.CauseTruncate, record.CauseTruncate},
		{event.CauseAllocate, record.CauseAllocate},
		{event.CauseMmap, record.CauseMmap},
		{event.CauseClone, record.CauseClone},
		{event.CauseCreate, record.CauseCreate},
		{event.CauseDelete, record.CauseDelete},
		{event.CauseRename, record.CauseRename},
		{event.CauseMetadata, record.CauseMetadata},
	} {
		if c&x.bit != 0 {
			names = append(names, x.name)
		}
	}
	return names
}

// flushCovered appends what was written outside of the layer.
func (a *Aggregator) flushCovered(res []record.Record, l *layer, now time.Time) []record.Record {
	if len(l.covered) == 0 {
		return res
	}
	from := len(res)
	for i := range l.covered {
		c := &l.covered[i]
		s := a.cfg.Mounts.Classify(l.id, c.Device, c.Path)
		if s.Class == record.ClassLayer || s.Class == "" {
			// It is not in the layer, or it would have come as a Delta, and
			// must not enter the sums.
			s = record.Storage{Class: record.ClassOther}
		}
		l.coverTotal(s, c)
		path := filePath{text: c.Path, complete: strings.HasPrefix(c.Path, "/")}
		if path.text != "" && (abs(c.Size) < a.cfg.MinGrowth || !a.filter.keeps(path)) {
			continue
		}
		g := &record.Growth{
			Header:       record.NewHeader(record.TypeGrowth, now),
			Container:    l.meta,
			Process:      a.procs.record(c.proc),
			Storage:      s,
			WrittenBytes: c.Written,
			Writes:       c.Writes,
			SizeGrowth:   c.Size,
		}
		g.File.Path, g.File.PathB64 = record.Text(path.text)
		g.File.PathIncomplete = !path.complete && path.text != ""
		g.File.Size = c.FileSize
		g.File.Inode = c.Inode
		causes := c.Causes
		if causes == 0 {
			causes = event.CauseWrite
		}
		g.Causes = a.causeNames(causes, c.proc != 0)
		res = append(res, g)
	}
	slices.SortFunc(res[from:], func(x, y record.Record) int {
		g, h := x.(*record.Growth), y.(*record.Growth)
		return cmp.Or(
			cmp.Compare(abs(h.SizeGrowth), abs(g.SizeGrowth)),
			strings.Compare(g.File.Path, h.File.Path),
			cmp.Compare(pid(g), pid(h)),
			cmp.Compare(g.File.Inode, h.File.Inode),
		)
	})
	return res
}

func pid(g *record.Growth) uint32 {
	if g.Process == nil {
		return 0
	}
	return g.Process.PID
}

// maxCoveredTotals bounds the mounts that are told apart in the summary.
const maxCoveredTotals = 64

func (l *layer) coverTotal(s record.Storage, c *coveredAcc) {
	t := l.coveredTotals[s]
	if t == nil {
		if len(l.coveredTotals) >= maxCoveredTotals {
			s = record.Storage{Class: s.Class}
			t = l.coveredTotals[s]
		}
		if t == nil {
			t = &record.CoveredTotal{Storage: s}
			l.coveredTotals[s] = t
		}
	}
	t.SizeGrowth += c.Size
	t.WrittenBytes += c.Written
}

// totals returns the layer's totals as booked so far.
func (l *layer) totals() record.Totals {
	return record.Totals{
		Container:          l.meta,
		Size:               l.base.size + l.grown.size,
		Allocated:          l.base.disk + l.grown.disk,
		BaselineSize:       l.base.size,
		BaselineAllocated:  l.base.disk,
		SizeGrowth:         l.grown.size,
		DiskGrowth:         l.grown.disk,
		WrittenBytes:       l.written,
		CopyUpBytes:        l.copyUp,
		UnattributedSize:   l.unattributed.size,
		UnattributedDisk:   l.unattributed.disk,
		OpenDeletedBytes:   l.openDeleted,
		FilteredSizeGrowth: l.filtered.size,
		FilteredDiskGrowth: l.filtered.disk,
	}
}
