package aggregate

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/layertrace/layertrace/internal/record"
	"github.com/layertrace/layertrace/tracer/event"
)

const (
	// topN is how many files, programs and lost paths are listed.
	topN = 10
	// maxPrograms bounds the programs of a container that are ranked; when more
	// have come by, the lighter half is forgotten.
	maxPrograms = 1024
	// maxRemoved bounds the removed containers that a summary lists.
	maxRemoved = 1000
)

// ranked is what rankings compare: growth, then bytes written. Shrinking ranks
// below not growing.
type ranked struct {
	sums
	written uint64
}

func (r ranked) weight() int64 { return max(r.size, r.disk) }
func (r ranked) zero() bool    { return r == ranked{} }

// compare orders the heavier first.
func (r ranked) compare(o ranked) int {
	return cmp.Or(cmp.Compare(o.weight(), r.weight()), cmp.Compare(o.written, r.written))
}

// topFile is a candidate for the list of files; path is built only for those
// that make it.
type topFile struct {
	ranked
	path string
}

func compareFiles(x, y topFile) int {
	return cmp.Or(x.compare(y.ranked), strings.Compare(x.path, y.path))
}

// insertTop puts v where it belongs in the sorted list, which keeps n values.
func insertTop[T any](list []T, n int, v T, compare func(T, T) int) []T {
	at, _ := slices.BinarySearchFunc(list, v, compare)
	if at >= n {
		return list
	}
	if len(list) == n {
		list = list[:n-1]
	}
	return slices.Insert(list, at, v)
}

// program tells processes apart as people do.
type program struct {
	name, nameB64, executable, executableB64 string
}

type programSum struct {
	ranked
	processes int
}

// tops keeps what a summary ranks and the tree does not hold.
type tops struct {
	buried   []topFile // the heaviest of the files that are gone
	programs map[program]*programSum
}

func newTops() tops { return tops{programs: make(map[program]*programSum)} }

// bury keeps the growth of a file that is about to be forgotten.
func (t *tops) bury(l *layer, id nodeID) {
	n := l.tree.at(id)
	f := topFile{ranked: ranked{sums{n.grown, n.grownDisk}, n.written}}
	if f.zero() || len(t.buried) == topN && f.compare(t.buried[topN-1].ranked) >= 0 {
		return
	}
	f.path = newPaths(&l.tree).of(id).text
	t.buried = addFile(t.buried, f)
}

// addFile adds a file to a list of the heaviest, as one with an earlier file of
// the same path.
func addFile(list []topFile, f topFile) []topFile {
	if at := slices.IndexFunc(list, func(x topFile) bool { return x.path == f.path }); at >= 0 {
		f.add(list[at].size, list[at].disk)
		f.written += list[at].written
		list = slices.Delete(list, at, at+1)
	}
	return insertTop(list, topN, f, compareFiles)
}

// program adds an acc to its program's growth.
func (t *tops) program(l event.LayerID, ps *procs, x *acc) {
	p := &ps.list[x.proc]
	key := program{p.rec.Name, p.rec.NameB64, p.rec.Executable, p.rec.ExecutableB64}
	s := t.programs[key]
	if s == nil {
		if len(t.programs) >= maxPrograms {
			t.thin()
		}
		s = new(programSum)
		t.programs[key] = s
	}
	s.add(x.size, x.disk)
	s.written += x.written
	if ps.firstIn(x.proc, l) {
		s.processes++
	}
}

func (t *tops) thin() {
	list := t.sorted()
	for _, x := range list[len(list)/2:] {
		delete(t.programs, x.program)
	}
}

type rankedProgram struct {
	program
	*programSum
}

func (t *tops) sorted() []rankedProgram {
	list := make([]rankedProgram, 0, len(t.programs))
	for p, s := range t.programs {
		list = append(list, rankedProgram{p, s})
	}
	slices.SortFunc(list, func(x, y rankedProgram) int {
		return cmp.Or(x.compare(y.ranked),
			strings.Compare(x.name, y.name), strings.Compare(x.executable, y.executable),
			strings.Compare(x.nameB64, y.nameB64), strings.Compare(x.executableB64, y.executableB64))
	})
	return list
}

// summary returns the layer's part of the summary.
func (l *layer) summary() record.ContainerSummary {
	s := record.ContainerSummary{
		Totals:       l.totals(),
		TopFiles:     []record.TopFile{},
		TopProcesses: []record.TopProcess{},
		Log:          l.log.totals(),
	}

	files := slices.Clone(l.tops.buried)
	ps := newPaths(&l.tree)
	l.tree.each(func(id nodeID, n *node) {
		f := topFile{ranked: ranked{sums{n.grown, n.grownDisk}, n.written}}
		if f.zero() || len(files) == topN && f.compare(files[topN-1].ranked) > 0 {
			return
		}
		f.path = ps.of(id).text
		files = addFile(files, f)
	})
	for _, f := range files {
		r := record.TopFile{SizeGrowth: f.size, DiskGrowth: f.disk, WrittenBytes: f.written}
		r.Path, r.PathB64 = record.Text(f.path)
		s.TopFiles = append(s.TopFiles, r)
	}

	for _, p := range l.tops.sorted() {
		if len(s.TopProcesses) == topN {
			break
		}
		if p.zero() {
			continue
		}
		s.TopProcesses = append(s.TopProcesses, record.TopProcess{
			Name: p.name, NameB64: p.nameB64, Executable: p.executable, ExecutableB64: p.executableB64, Processes: p.processes,
			SizeGrowth: p.size, DiskGrowth: p.disk, WrittenBytes: p.written,
		})
	}

	for _, c := range l.coveredTotals {
		s.Covered = append(s.Covered, *c)
	}
	slices.SortFunc(s.Covered, func(x, y record.CoveredTotal) int {
		return cmp.Or(
			cmp.Compare(y.WrittenBytes, x.WrittenBytes),
			strings.Compare(x.Storage.Destination, y.Storage.Destination),
			strings.Compare(x.Storage.Class, y.Storage.Class),
			strings.Compare(x.Storage.Source, y.Storage.Source),
		)
	})
	return s
}

// heaviest lists the heaviest files of the layer.
func (l *layer) heaviest() []record.PathSize {
	type file struct {
		id         nodeID
		size, disk int64
	}
	var list []file
	l.tree.each(func(id nodeID, n *node) {
		if n.linked() && !n.dir() && (n.size > 0 || n.disk > 0) {
			list = insertTop(list, topN, file{id, n.size, n.disk}, func(x, y file) int {
				return cmp.Or(cmp.Compare(max(y.size, y.disk), max(x.size, x.disk)),
					cmp.Compare(y.size, x.size), cmp.Compare(x.id, y.id))
			})
		}
	})
	ps := newPaths(&l.tree)
	res := make([]record.PathSize, 0, len(list))
	for _, f := range list {
		r := record.PathSize{Size: f.size, Allocated: f.disk}
		r.Path, r.PathB64 = record.Text(ps.of(f.id).text)
		res = append(res, r)
	}
	return res
}

// doneList holds the summaries of removed containers: of the heaviest, each; of
// the others, their sum.
type doneList struct {
	list     []record.ContainerSummary
	unlisted record.Unlisted
}

func (d *doneList) add(s record.ContainerSummary) {
	d.list = append(d.list, s)
	if len(d.list) < 2*maxRemoved {
		return
	}
	d.fold()
}

func (d *doneList) fold() {
	if len(d.list) <= maxRemoved {
		return
	}
	slices.SortStableFunc(d.list, func(x, y record.ContainerSummary) int {
		return cmp.Or(
			cmp.Compare(max(y.SizeGrowth, y.DiskGrowth), max(x.SizeGrowth, x.DiskGrowth)),
			strings.Compare(x.Container.ID, y.Container.ID),
		)
	})
	for _, s := range d.list[maxRemoved:] {
		d.unlisted.Containers++
		d.unlisted.SizeGrowth += s.SizeGrowth
		d.unlisted.DiskGrowth += s.DiskGrowth
		d.unlisted.WrittenBytes += s.WrittenBytes
	}
	clear(d.list[maxRemoved:])
	d.list = d.list[:maxRemoved]
}

// Summary returns the record of the whole run: totals, the ten heaviest files
// and programs of each container, and losses. Call it after Final. ended is one
// of the record.Ended constants. Of more than a thousand removed containers,
// those that grew least are only counted.
func (a *Aggregator) Summary(now time.Time, ended string) *record.Summary {
	a.done.fold()
	s := &record.Summary{
		Header:     record.NewHeader(record.TypeSummary, now),
		Containers: slices.Grow([]record.ContainerSummary{}, len(a.done.list)+len(a.order)),
		Losses:     append([]record.LossTotal{}, a.totals...),
		DurationMS: now.Sub(a.cfg.Start).Milliseconds(),
		Ended:      ended,
	}
	s.Containers = append(s.Containers, a.done.list...)
	for _, l := range a.order {
		s.Containers = append(s.Containers, l.summary())
	}
	slices.SortStableFunc(s.Containers, func(x, y record.ContainerSummary) int {
		return cmp.Or(
			strings.Compare(x.Container.Name, y.Container.Name),
			strings.Compare(x.Container.ID, y.Container.ID),
		)
	})
	slices.SortFunc(s.Losses, func(x, y record.LossTotal) int { return strings.Compare(x.Reason, y.Reason) })
	if a.done.unlisted.Containers > 0 {
		u := a.done.unlisted
		s.Unlisted = &u
	}
	return s
}
