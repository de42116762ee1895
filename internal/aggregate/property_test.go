package aggregate

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/layertrace/layertrace/internal/record"
	"github.com/layertrace/layertrace/tracer/event"
)

// model is a layer's file system together with the kernel side that watches it:
// it does random things and reports them as the tracer would.
type model struct {
	t      *rapid.T
	inodes map[uint64]*inode
	batch  event.Batch
	deltas map[deltaKey]*event.Delta
	order  []*event.Delta
	full   bool // some counters overflow
	lossy  bool // some file events are dropped
	// vague: a file was renamed and linked while it was scanned. A seed does not
	// say which of its names it had first, so that a count of files may be off.
	vague    bool
	lives    uint64
	scanning bool
}

type deltaKey struct {
	f event.FileID
	p event.ProcessID
}

type inode struct {
	file       event.FileID
	dir        bool
	names      map[nameIn]bool
	size, disk int64
	open       bool // lives on without a name
	renamed    bool
	linked     bool
	vague      bool // see model.vague
}

type nameIn struct {
	parent uint64
	name   string
}

func newModel(t *rapid.T) *model {
	m := &model{t: t, inodes: make(map[uint64]*inode), deltas: make(map[deltaKey]*event.Delta)}
	m.inodes[root.Inode] = &inode{file: root, dir: true, disk: 4096}
	return m
}

func (m *model) draw(n int, label string) int {
	return rapid.IntRange(0, n-1).Draw(m.t, label)
}

// pick returns one of the inodes with a name that f likes, nil if there is none.
func (m *model) pick(label string, f func(*inode) bool) *inode {
	var list []uint64
	for _, ino := range slices.Sorted(maps.Keys(m.inodes)) {
		if n := m.inodes[ino]; (n.file == root || len(n.names) > 0) && f(n) {
			list = append(list, ino)
		}
	}
	if len(list) == 0 {
		return nil
	}
	return m.inodes[list[m.draw(len(list), label)]]
}

func (m *model) pickName(n *inode) nameIn {
	names := n.sorted()
	return names[m.draw(len(names), "name")]
}

func (n *inode) sorted() []nameIn {
	return slices.SortedFunc(maps.Keys(n.names), func(x, y nameIn) int {
		if x.parent != y.parent {
			return int(x.parent) - int(y.parent)
		}
		return int(x.name[0]) - int(y.name[0])
	})
}

func (m *model) at(w nameIn) *inode {
	for _, n := range m.inodes {
		if n.names[w] {
			return n
		}
	}
	return nil
}

func (m *model) empty(d *inode) bool {
	for _, n := range m.inodes {
		for w := range n.names {
			if w.parent == d.file.Inode {
				return false
			}
		}
	}
	return true
}

// within reports whether d is dir or below it.
func (m *model) within(d, dir *inode) bool {
	for d != nil && d != dir {
		up := d
		d = nil
		for w := range up.names {
			d = m.inodes[w.parent]
		}
	}
	return d == dir
}

func (m *model) tell(op event.FileOp, n *inode, w nameIn, p event.ProcessID) {
	if m.lossy && m.draw(4, "lose") == 0 {
		m.batch.Losses = append(m.batch.Losses, event.Loss{Layer: 1, Reason: event.LossRingFull, Events: 1})
		return
	}
	e := event.FileEvent{Layer: 1, Op: op, File: n.file, Name: w.name, Process: p}
	if d := m.inodes[w.parent]; d != nil {
		e.Parent = d.file
	}
	if op != event.FileUnlinked && op != event.FileGone {
		e.Mode = regular
		if n.dir {
			e.Mode = directory
		}
	}
	m.t.Logf("event %d %v %v/%q", op, e.File, e.Parent, e.Name)
	m.batch.Files = append(m.batch.Files, e)
}

func (m *model) grow(n *inode, size, disk int64, p event.ProcessID, c event.Causes) {
	n.size += size
	n.disk += disk
	k := deltaKey{n.file, p}
	d := m.deltas[k]
	if d == nil {
		d = &event.Delta{Layer: 1, File: n.file, Process: p}
		m.deltas[k] = d
		m.order = append(m.order, d)
	}
	d.Size += size
	d.Disk += disk
	d.Causes |= c
	if size > 0 {
		d.Written += uint64(size)
		d.Writes++
	}
}

func (m *model) create(dir bool, p event.ProcessID, first bool) {
	parent := m.pick("parent", func(n *inode) bool { return n.dir })
	w := nameIn{parent.file.Inode, string(rune('a' + m.draw(6, "letter")))}
	if m.at(w) != nil {
		return
	}
	ino := uint64(3)
	for m.inodes[ino] != nil { // the lowest free number, so that they are used again
		ino++
	}
	n := &inode{file: old(ino), dir: dir, names: map[nameIn]bool{w: true}}
	if !first {
		m.lives++
		n.file = fresh(ino, m.lives)
	}
	m.inodes[ino] = n
	disk := int64(0)
	if dir {
		disk = 4096
	}
	if first {
		n.disk = disk
		if !dir {
			n.size, n.disk = int64(m.draw(100, "size")), int64(m.draw(3, "blocks"))*512
		}
		return
	}
	m.tell(event.FileCreated, n, w, p)
	m.grow(n, 0, disk, p, event.CauseCreate)
}

func (m *model) unlink(n *inode, w nameIn, p event.ProcessID) {
	m.lose(n, w, p)
	m.tell(event.FileUnlinked, n, w, p)
	m.free(n)
}

// lose takes a name from a file. With the last one its bytes leave the layer.
func (m *model) lose(n *inode, w nameIn, p event.ProcessID) {
	delete(n.names, w)
	if len(n.names) == 0 {
		m.grow(n, -n.size, -n.disk, p, event.CauseDelete)
	}
}

// free ends an inode that has no name and is not open.
func (m *model) free(n *inode) {
	if len(n.names) > 0 || n.open {
		return
	}
	m.tell(event.FileGone, n, nameIn{}, event.ProcessID{})
	delete(m.inodes, n.file.Inode)
}

// rename moves a name of n to another one, w, that over may have. Of a file with
// several names, just the one moves. over is not told of, but for its end.
func (m *model) rename(n *inode, from, w nameIn, over *inode, p event.ProcessID) {
	n.renamed = true
	if m.scanning && n.linked {
		n.vague, m.vague = true, true
	}
	if over != nil {
		m.lose(over, w, p)
	}
	several := len(n.names) > 1
	delete(n.names, from)
	n.names[w] = true
	if several {
		m.tell(event.FileLinked, n, w, p)
		m.tell(event.FileUnlinked, n, from, p)
	} else {
		m.tell(event.FileRenamed, n, w, p)
	}
	if over != nil {
		m.free(over)
	}
}

// exchange gives each of two files the other's name.
func (m *model) exchange(x, y *inode, atX, atY nameIn, p event.ProcessID) {
	several := len(y.names) > 1
	y.renamed = true
	if m.scanning && y.linked {
		y.vague, m.vague = true, true
	}
	delete(y.names, atY)
	if several {
		m.tell(event.FileUnlinked, y, atY, p)
	}
	m.rename(x, atX, atY, nil, p)
	y.names[atX] = true
	if several {
		m.tell(event.FileLinked, y, atX, p)
	} else {
		m.tell(event.FileRenamed, y, atX, p)
	}
}

func isFile(n *inode) bool { return !n.dir }

// act does one random thing.
func (m *model) act() {
	var p event.ProcessID
	if pid := m.draw(4, "pid"); pid != 0 {
		p = process(uint32(pid))
	}
	switch m.draw(12, "action") {
	case 0, 1:
		m.create(false, p, false)
	case 2:
		m.create(true, p, false)
	case 3, 4:
		if n := m.pick("written", isFile); n != nil {
			m.grow(n, int64(m.draw(100, "grow")), int64(m.draw(3, "blocks"))*512, p, event.CauseWrite)
		}
	case 5:
		if n := m.pick("truncated", isFile); n != nil {
			m.grow(n, -n.size, -n.disk, p, event.CauseTruncate)
		}
	case 6:
		n := m.pick("unlinked", func(n *inode) bool { return n.file != root && (!n.dir || m.empty(n)) })
		if n != nil {
			m.unlink(n, m.pickName(n), p)
		}
	case 7:
		n := m.pick("linked", isFile)
		d := m.pick("into", func(n *inode) bool { return n.dir })
		w := nameIn{d.file.Inode, string(rune('a' + m.draw(6, "letter")))}
		if n != nil && m.at(w) == nil {
			n.names[w] = true
			n.linked = true
			if m.scanning && n.renamed {
				n.vague, m.vague = true, true
			}
			m.tell(event.FileLinked, n, w, p)
		}
	case 8:
		n := m.pick("renamed", func(n *inode) bool { return n.file != root })
		d := m.pick("into", func(n *inode) bool { return n.dir })
		if n == nil || m.within(d, n) {
			return
		}
		w := nameIn{d.file.Inode, string(rune('a' + m.draw(6, "letter")))}
		over := m.at(w)
		if over == n || over != nil && (over.dir || n.dir) {
			return
		}
		m.rename(n, m.pickName(n), w, over, p)
	case 9:
		x := m.pick("exchanged", isFile)
		y := m.pick("for", func(n *inode) bool { return !n.dir && n != x })
		if x != nil && y != nil {
			m.exchange(x, y, m.pickName(x), m.pickName(y), p)
		}
	case 10:
		if n := m.pick("opened", isFile); n != nil {
			n.open = true
		}
	case 11:
		for _, ino := range slices.Sorted(maps.Keys(m.inodes)) {
			n := m.inodes[ino]
			if n.open && m.draw(2, "close") == 0 {
				n.open = false
				m.free(n)
			}
		}
	}
}

// collect returns what happened since the last call. torn keeps the deltas for
// the next one, as the tracer may.
func (m *model) collect(torn bool) *event.Batch {
	b := m.batch
	m.batch = event.Batch{}
	if torn {
		return &b
	}
	for _, d := range m.order {
		if m.full && m.draw(8, "overflow") == 0 {
			b.Overflows = append(b.Overflows, event.Overflow{Layer: 1, Size: d.Size, Disk: d.Disk, Written: d.Written})
			b.Losses = append(b.Losses, event.Loss{Layer: 1, Reason: event.LossTableFull, Events: 1, Bytes: d.Size})
			continue
		}
		b.Deltas = append(b.Deltas, *d)
	}
	clear(m.deltas)
	m.order = nil
	return &b
}

func (m *model) total() (s sums, files int64) {
	for _, n := range m.inodes {
		s.add(n.size, n.disk)
		if !n.dir && len(n.names) > 0 {
			files++
		}
	}
	return s, files
}

// paths returns all paths of an inode.
func (m *model) paths(n *inode) []string {
	if n.file == root {
		return []string{"/"}
	}
	var res []string
	for w := range n.names {
		p := m.paths(m.inodes[w.parent])[0]
		if p == "/" {
			p = ""
		}
		res = append(res, p+"/"+w.name)
	}
	return res
}

// snapshot returns the seeds that a scan makes which sees this very moment: of what
// was there before counting began.
func (m *model) snapshot(base map[uint64]sums) []Baseline {
	var seeds []Baseline
	for _, ino := range slices.Sorted(maps.Keys(m.inodes)) {
		n := m.inodes[ino]
		if n.file.Born() {
			continue
		}
		mode := uint32(regular)
		if n.dir {
			mode = directory
		}
		// The sizes are what the deltas are relative to.
		links := uint32(len(n.names))
		if n.dir {
			links = 2
		}
		b := Baseline{File: n.file, Mode: mode, Links: links, Size: base[ino].size, Disk: base[ino].disk}
		if n.file == root {
			seeds = append(seeds, b)
		}
		sized := m.draw(max(len(n.names), 1), "sized")
		for i, w := range n.sorted() {
			b := b
			b.Parent, b.Name = m.inodes[w.parent].file, w.name
			if i != sized {
				b.Size, b.Disk, b.Further = 0, 0, true
			}
			seeds = append(seeds, b)
		}
	}
	return rapid.Permutation(seeds).Draw(m.t, "order")
}

// sheet adds up a stream as its reader would.
type sheet struct {
	grown        sums
	unattributed sums
	filtered     bool // the records are not all there
	first, last  *record.Layer
	seen         int            // growth records
	living       map[uint64]int // by inode: the last record, if it says that it exists
	path         map[uint64]string
	ended        map[string]int // by path: the last record of a deletion
}

// follow keeps what is there as far as the records tell.
func (s *sheet) follow(g *record.Growth) {
	if s.living == nil {
		s.living, s.path, s.ended = map[uint64]int{}, map[uint64]string{}, map[string]int{}
	}
	s.seen++
	s.living[g.File.Inode], s.path[g.File.Inode] = s.seen, g.File.Path
	if g.File.Deleted {
		delete(s.living, g.File.Inode)
		s.ended[g.File.Path] = s.seen
	}
}

func (s *sheet) read(t *rapid.T, recs []record.Record) {
	for _, r := range recs {
		switch r := r.(type) {
		case *record.Growth:
			s.grown.add(r.SizeGrowth, r.DiskGrowth)
			s.follow(r)
			if r.Process == nil {
				s.unattributed.add(r.SizeGrowth, r.DiskGrowth)
			}
		case *record.Layer:
			if s.first == nil {
				s.first = r
			}
			s.last = r
			s.check(t)
		}
	}
}

// check holds the layer record against the growth records before it.
func (s *sheet) check(t *rapid.T) {
	l := s.last
	if l.BaselineSize != s.first.BaselineSize || l.BaselineAllocated != s.first.BaselineAllocated {
		t.Fatalf("the baseline moved from %d/%d to %d/%d", s.first.BaselineSize, s.first.BaselineAllocated, l.BaselineSize, l.BaselineAllocated)
	}
	if got := s.grown.size + l.FilteredSizeGrowth; got != l.SizeGrowth || l.Size != l.BaselineSize+got {
		t.Fatalf("size %d, baseline %d, growth %d, records add up to %d", l.Size, l.BaselineSize, l.SizeGrowth, got)
	}
	if got := s.grown.disk + l.FilteredDiskGrowth; got != l.DiskGrowth || l.Allocated != l.BaselineAllocated+got {
		t.Fatalf("allocated %d, baseline %d, growth %d, records add up to %d", l.Allocated, l.BaselineAllocated, l.DiskGrowth, got)
	}
	if !s.filtered && (s.unattributed != sums{l.UnattributedSize, l.UnattributedDisk}) {
		t.Fatalf("unattributed %d/%d, records say %+v", l.UnattributedSize, l.UnattributedDisk, s.unattributed)
	}
}

// TestBooksEqualDisk: whatever happens, in whatever order scan, events and
// deltas come in, the stream adds up; where nothing was lost the books equal the
// disk, and otherwise do so once an audit is reconciled.
func TestBooksEqualDisk(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newModel(t)
		cfg := Config{Start: boot, Actors: host{}}
		var s sheet
		if rapid.Bool().Draw(t, "filter") {
			s.filtered = true
			cfg.Exclude = []string{"/a", "b"}
			cfg.MinGrowth = int64(m.draw(50, "min"))
		}
		a, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		a.AddLayer(1, api)
		for range m.draw(12, "old files") {
			m.create(m.draw(3, "dir") == 0, event.ProcessID{}, true)
		}
		base := make(map[uint64]sums)
		for ino, n := range m.inodes {
			base[ino] = sums{n.size, n.disk}
		}

		// The kernel side watches from here on. The scan sees one moment
		// between two series of actions; its seeds and the batches come in any
		// order before SeedDone.
		var batches []*event.Batch
		run := func(n int) {
			for range m.draw(n, "actions") {
				m.act()
				if m.draw(4, "collect") == 0 {
					batches = append(batches, m.collect(false))
				}
			}
		}
		m.scanning = true
		run(20)
		seeds := m.snapshot(base)
		run(20)
		batches = append(batches, m.collect(false))
		for len(seeds)+len(batches) > 0 {
			if len(batches) == 0 || len(seeds) > 0 && rapid.Bool().Draw(t, "seed next") {
				a.Seed(1, seeds[0])
				seeds = seeds[1:]
			} else {
				a.Apply(batches[0])
				batches = batches[1:]
			}
		}
		m.scanning = false
		a.Apply(new(event.Batch)) // collected after the scan
		a.SeedDone(1)

		now := boot
		flush := func() {
			now = now.Add(time.Second)
			s.read(t, a.Flush(now))
		}
		flush()
		compare := func(when string) {
			want, files := m.total()
			l, _ := a.LayerTotals(1)
			if got := (sums{l.Size, l.Allocated}); got != want {
				t.Fatalf("%s: layer is %+v on disk, %+v in the books", when, want, got)
			}
			if !m.lossy && !m.vague && when != "after the audit" && l.Files != files {
				t.Fatalf("%s: %d files on disk, %d in the books", when, files, l.Files)
			}
		}
		compare("after the scan")

		m.full = rapid.Bool().Draw(t, "full")
		m.lossy = rapid.Bool().Draw(t, "lossy")
		for range m.draw(6, "intervals") {
			for range m.draw(15, "actions") {
				m.act()
				if m.draw(6, "collect") == 0 {
					a.Apply(m.collect(rapid.Bool().Draw(t, "torn")))
				}
			}
			a.Apply(m.collect(rapid.Bool().Draw(t, "torn")))
			flush()
		}
		a.Apply(m.collect(false))
		compare("at the end")
		if !m.lossy {
			for _, n := range m.inodes {
				b := a.Booked(1, n.file)
				path, ok := b.Path, b.Named
				if n.file != root && len(n.names) == 0 {
					if ok && !n.vague {
						t.Fatalf("inode %+v has no name, but in the books it is %q", n.file, path)
					}
					continue
				}
				if !n.vague && (!ok || !slices.Contains(m.paths(n), path)) {
					t.Fatalf("inode %+v has paths %q, in the books %q, %v", n.file, m.paths(n), path, ok)
				}
			}
		}

		flush()
		if !m.lossy && !s.filtered {
			for ino, at := range s.living {
				n := m.inodes[ino]
				if (n == nil || n.file != root && len(n.names) == 0 && !n.vague) && s.ended[s.path[ino]] < at && s.path[ino] != "" {
					t.Fatalf("inode %d is gone, but the last record of it, as %q, does not say so", ino, s.path[ino])
				}
			}
		}

		// Somebody tampers with the disk behind the kernel side's back, and an
		// audit finds it, and whatever overflowed.
		for range m.draw(4, "tamper") {
			m.act()
		}
		m.collect(false)
		var found []Found
		for _, ino := range slices.Sorted(maps.Keys(m.inodes)) {
			n := m.inodes[ino]
			if n.file != root && len(n.names) == 0 {
				continue
			}
			found = append(found, Found{File: event.FileID{Inode: ino}, Path: fmt.Sprint("/", ino), Dir: n.dir, Size: n.size, Disk: n.disk})
		}
		a.Reconcile(1, a.Compare(1, found))
		compare("after the audit")
		if diffs := a.Compare(1, found); len(diffs) != 0 {
			t.Fatalf("after reconciling, still %+v", diffs)
		}
		s.read(t, a.Final(now.Add(time.Second)))
		l := s.last
		sum := a.Summary(now, record.EndedSignal)
		if c := sum.Containers[0]; c.Size != l.Size || c.SizeGrowth != l.SizeGrowth || c.UnattributedDisk != l.UnattributedDisk {
			t.Fatalf("summary %+v, layer %+v", c, l)
		}
	})
}
