package aggregate

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/layertrace/layertrace/internal/output"
	"github.com/layertrace/layertrace/internal/output/outputtest"
	"github.com/layertrace/layertrace/internal/record"
	"github.com/layertrace/layertrace/tracer/event"
)

const (
	regular   = 0o100644
	directory = 0o040755
)

var (
	boot = time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)
	api  = record.Container{ID: strings.Repeat("a", 64), Name: "my-api", Image: "my-api:1", Runtime: "docker"}
	root = event.FileID{Inode: 2}
)

// host is the world outside of the aggregator: cgroup 7 is my-api's, every pid
// below 1000 lives.
type host struct{}

func (host) Actor(cgroup uint64) (string, bool) {
	if cgroup == 7 {
		return api.ID, true
	}
	return "", false
}
func (host) Alive(pid uint32, _ uint64) bool { return pid < 1000 }
func (host) StartTime(ns uint64) time.Time   { return boot.Add(time.Duration(ns)) }
func at(seconds int) time.Time               { return boot.Add(time.Duration(seconds) * time.Second) }
func old(inode uint64) event.FileID          { return event.FileID{Inode: inode} }
func fresh(inode, generation uint64) event.FileID {
	return event.FileID{Inode: inode, Generation: generation}
}

func (host) Classify(_ event.LayerID, _ uint64, path string) record.Storage {
	if strings.HasPrefix(path, "/data") {
		return record.Storage{Class: record.ClassVolume, Destination: "/data", Name: "vol"}
	}
	return record.Storage{Class: record.ClassLayer}
}

func process(pid uint32) event.ProcessID { return event.ProcessID{PID: pid, Start: uint64(pid) * 1000} }

func known(pid uint32, name string) event.Process {
	return event.Process{ID: process(pid), ParentPID: 1, CgroupID: 7, Name: name, Executable: "/usr/bin/" + name}
}

// newTest returns an aggregator with my-api as layer 1, whose root is seeded.
func newTest(t testing.TB, change ...func(*Config)) *Aggregator {
	t.Helper()
	cfg := Config{Start: boot, Actors: host{}, Mounts: host{}}
	for _, f := range change {
		f(&cfg)
	}
	a, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	a.AddLayer(1, api)
	a.Seed(1, Baseline{File: root, Mode: directory, Disk: 4096})
	return a
}

func seedFile(a *Aggregator, f, parent event.FileID, name string, size, disk int64) {
	a.Seed(1, Baseline{File: f, Parent: parent, Name: name, Mode: regular, Links: 1, Size: size, Disk: disk})
}

func seedDir(a *Aggregator, f, parent event.FileID, name string) {
	a.Seed(1, Baseline{File: f, Parent: parent, Name: name, Mode: directory, Links: 2, Size: 4096, Disk: 4096})
}

func fileEvent(op event.FileOp, f, parent event.FileID, name string, pid uint32) event.FileEvent {
	e := event.FileEvent{Layer: 1, Op: op, File: f, Parent: parent, Name: name, Process: process(pid)}
	if op != event.FileUnlinked && op != event.FileGone {
		e.Mode = regular
	}
	return e
}

func delta(f event.FileID, pid uint32, size, disk int64, causes event.Causes) event.Delta {
	d := event.Delta{Layer: 1, File: f, Size: size, Disk: disk, Causes: causes}
	if pid != 0 {
		d.Process = process(pid)
	}
	if causes&event.CauseWrite != 0 {
		d.Written, d.Writes = uint64(max(size, 1)), 1
	}
	return d
}

// show prints records in a short form that tests compare.
func show(recs []record.Record) string {
	var b strings.Builder
	for _, r := range recs {
		switch r := r.(type) {
		case *record.Growth:
			name := "?"
			if r.Process != nil {
				name = fmt.Sprintf("%s/%d", r.Process.Name, r.Process.PID)
				if r.Process.Exited {
					name += "+"
				}
			}
			fmt.Fprintf(&b, "%s %q", name, r.File.Path)
			if r.File.PreviousPath != "" {
				fmt.Fprintf(&b, " was %q", r.File.PreviousPath)
			}
			if r.Storage.Class != record.ClassLayer {
				fmt.Fprintf(&b, " on %s", r.Storage.Class)
			}
			if r.File.Origin != "" {
				fmt.Fprintf(&b, " %s", r.File.Origin)
			}
			if r.File.Deleted {
				b.WriteString(" deleted")
			}
			fmt.Fprintf(&b, " %d/%d grew %d/%d %s\n", r.File.Size, r.File.Allocated,
				r.SizeGrowth, r.DiskGrowth, strings.Join(r.Causes, ","))
		case *record.Layer:
			fmt.Fprintf(&b, "layer %d/%d base %d/%d grew %d/%d files %d\n", r.Size, r.Allocated,
				r.BaselineSize, r.BaselineAllocated, r.SizeGrowth, r.DiskGrowth, r.Files)
		case *record.Loss:
			fmt.Fprintf(&b, "loss %s %d %d\n", r.Reason, r.Events, r.Bytes)
		case *record.ContainerEvent:
			fmt.Fprintf(&b, "container %s %s", r.Event, r.Container.Name)
			if r.LostSize != nil {
				fmt.Fprintf(&b, " lost %d/%d", *r.LostSize, *r.LostAllocated)
				for _, p := range r.LostPaths {
					fmt.Fprintf(&b, " %s=%d", p.Path, p.Size)
				}
			}
			b.WriteByte('\n')
		}
	}
	return b.String()
}

func expect(t *testing.T, what string, got []record.Record, want ...string) {
	t.Helper()
	w := strings.Join(want, "\n")
	if w != "" {
		w += "\n"
	}
	if g := show(got); g != w {
		t.Errorf("%s:\n got:\n%s want:\n%s", what, indent(g), indent(w))
	}
}

func indent(s string) string { return "\t" + strings.ReplaceAll(s, "\n", "\n\t") }

func TestIntervals(t *testing.T) {
	a := newTest(t)
	seedDir(a, old(10), root, "var")
	seedFile(a, old(11), old(10), "app.log", 100, 4096)
	if got := a.Flush(at(0)); len(got) != 0 {
		t.Fatalf("records before the baseline is known: %s", show(got))
	}
	a.SeedDone(1)
	expect(t, "first", a.Flush(at(1)), "layer 100/12288 base 100/12288 grew 0/0 files 1")
	if got := a.Flush(at(2)); len(got) != 0 {
		t.Errorf("records though nothing changed: %s", show(got))
	}

	// One file and process over two batches; a second process; an unknown one.
	a.Apply(&event.Batch{
		Processes: []event.Process{known(5, "node"), known(2000, "sh")},
		Deltas:    []event.Delta{delta(old(11), 5, 10, 0, event.CauseWrite), delta(old(11), 2000, 1, 0, event.CauseTruncate)},
	})
	a.Apply(&event.Batch{
		Deltas: []event.Delta{delta(old(11), 5, 5000, 4096, event.CauseWrite), delta(old(11), 0, 0, 4096, event.CauseMmap)},
	})
	expect(t, "merged", a.Flush(at(3)),
		`node/5 "/var/app.log" added 5111/12288 grew 5010/4096 write`,
		`? "/var/app.log" added 5111/12288 grew 0/4096 unattributed`,
		`sh/2000+ "/var/app.log" added 5111/12288 grew 1/0 truncate`,
		`layer 5111/20480 base 100/12288 grew 5011/8192 files 1`)
	if l, _ := a.LayerTotals(1); l.UnattributedSize != 0 || l.UnattributedDisk != 4096 {
		t.Errorf("unattributed = %d/%d, want 0/4096", l.UnattributedSize, l.UnattributedDisk)
	}
	expect(t, "final", a.Final(at(4)), `layer 5111/20480 base 100/12288 grew 5011/8192 files 1`)
}

func TestDefaultCausesAndDropped(t *testing.T) {
	a := newTest(t)
	seedDir(a, old(10), root, "d")
	seedFile(a, old(11), root, "f", 0, 0)
	a.SeedDone(1)
	a.Flush(at(1))
	a.Apply(&event.Batch{
		Processes: []event.Process{known(5, "p")},
		Deltas: []event.Delta{
			delta(old(10), 5, 0, 4096, 0),
			delta(old(11), 5, 0, 512, 0),
			{Layer: 1, File: old(11), Process: process(6), Writes: 3, Causes: event.CauseWrite},
			{Layer: 9, File: old(11), Process: process(6), Size: 3},
		},
	})
	expect(t, "causes", a.Flush(at(2)),
		`p/5 "/d" directory 0/8192 grew 0/4096 metadata`,
		`p/5 "/f" added 0/512 grew 0/512 write`,
		`layer 0/12800 base 0/8192 grew 0/4608 files 1`)
}

func TestTreeEvents(t *testing.T) {
	a := newTest(t)
	seedDir(a, old(10), root, "etc")
	seedFile(a, old(11), old(10), "passwd", 50, 4096)
	a.SeedDone(1)
	a.Flush(at(1))

	dir := fileEvent(event.FileCreated, fresh(20, 1), root, "tmp", 5)
	dir.Mode = directory
	a.Apply(&event.Batch{
		Processes: []event.Process{known(5, "sh")},
		Files: []event.FileEvent{
			dir,
			fileEvent(event.FileCreated, fresh(21, 1), fresh(20, 1), "new", 5),
			fileEvent(event.FileRenamed, fresh(21, 1), fresh(20, 1), "newer", 5),
			fileEvent(event.FileCopiedUp, fresh(22, 1), old(10), "hosts", 5),
			fileEvent(event.FileWhiteout, event.FileID{}, old(10), "gone", 5),
			fileEvent(event.FileLinked, old(11), fresh(20, 1), "alias", 5),
		},
		Deltas: []event.Delta{
			delta(fresh(20, 1), 5, 0, 4096, event.CauseCreate),
			delta(fresh(21, 1), 5, 0, 0, event.CauseCreate),
			{Layer: 1, File: fresh(22, 1), Process: process(5), Size: 70, Disk: 4096, CopyUp: 70, Causes: event.CauseCopyUp},
		},
	})
	expect(t, "events", a.Flush(at(2)),
		`sh/5 "/etc/hosts" copied_up 70/4096 grew 70/4096 copy_up`,
		`sh/5 "/tmp" directory 0/4096 grew 0/4096 create`,
		`sh/5 "/etc/gone" whiteout deleted 0/0 grew 0/0 delete`,
		`sh/5 "/tmp/alias" added 50/4096 grew 0/0 create`,
		`sh/5 "/tmp/newer" was "/tmp/new" added 0/0 grew 0/0 create,rename`,
		`layer 120/20480 base 50/12288 grew 70/8192 files 3`)

	// Renaming the directory moves everything below it. Of a file with two names
	// one goes, then the other.
	rename := fileEvent(event.FileRenamed, fresh(20, 1), old(10), "t", 5)
	rename.Mode = directory
	a.Apply(&event.Batch{
		Files: []event.FileEvent{
			rename,
			fileEvent(event.FileUnlinked, old(11), old(10), "passwd", 5),
		},
		Deltas: []event.Delta{delta(fresh(21, 1), 5, 9, 0, event.CauseWrite)},
	})
	expect(t, "renamed", a.Flush(at(3)),
		`sh/5 "/etc/t/newer" added 9/0 grew 9/0 write`,
		`sh/5 "/etc/passwd" added deleted 0/0 grew 0/0 delete`,
		`sh/5 "/etc/t" was "/tmp" directory 0/4096 grew 0/0 rename`,
		`layer 129/20480 base 50/12288 grew 79/8192 files 3`)
	if path, _, _, ok := a.Booked(1, old(11)); !ok || path != "/etc/t/alias" {
		t.Errorf("the file that was linked is %q, %v", path, ok)
	}

	// The last name goes; the deltas come one batch later than FileGone.
	a.Apply(&event.Batch{Files: []event.FileEvent{
		fileEvent(event.FileUnlinked, old(11), fresh(20, 1), "alias", 5),
		fileEvent(event.FileGone, old(11), event.FileID{}, "", 0),
	}})
	expect(t, "deleted", a.Flush(at(4)),
		`sh/5 "/etc/t/alias" added deleted 0/0 grew 0/0 delete`,
		`layer 129/20480 base 50/12288 grew 79/8192 files 2`)
	a.Apply(&event.Batch{Deltas: []event.Delta{delta(old(11), 5, -50, -4096, event.CauseDelete)}})
	expect(t, "freed", a.Flush(at(5)),
		`sh/5 "/etc/t/alias" added deleted 0/0 grew -50/-4096 delete`,
		`layer 79/16384 base 50/12288 grew 29/4096 files 2`)
	a.Apply(&event.Batch{})
	a.Flush(at(6))
	if n := a.layers[1].tree.find(old(11)); n != 0 {
		t.Error("the freed file is still in the tree")
	}
}

func TestSameNameInOneInterval(t *testing.T) {
	a := newTest(t)
	a.SeedDone(1)
	a.Flush(at(1))
	b := event.Batch{Processes: []event.Process{known(5, "sqlite")}}
	for i := range uint64(50) {
		f := fresh(30, i+1)
		b.Files = append(b.Files,
			fileEvent(event.FileCreated, f, root, "journal", 5),
			fileEvent(event.FileUnlinked, f, root, "journal", 5),
			fileEvent(event.FileGone, f, event.FileID{}, "", 0))
		b.Deltas = append(b.Deltas, event.Delta{Layer: 1, File: f, Process: process(5), Written: 10, Writes: 1,
			Causes: event.CauseCreate | event.CauseDelete | event.CauseWrite})
	}
	a.Apply(&b)
	got := a.Flush(at(2))
	expect(t, "one record", got,
		`sqlite/5 "/journal" added deleted 0/0 grew 0/0 write,create,delete`,
		`layer 0/4096 base 0/4096 grew 0/0 files 0`)
	if g := got[0].(*record.Growth); g.WrittenBytes != 500 || g.Writes != 50 {
		t.Errorf("written %d in %d, want 500 in 50", g.WrittenBytes, g.Writes)
	}
	a.Apply(&event.Batch{})
	a.Flush(at(3))
	if n := len(a.layers[1].tree.byInode); n != 1 {
		t.Errorf("%d inodes known, want the root only", n)
	}
	s := a.Summary(at(3), record.EndedSignal)
	if f := s.Containers[0].TopFiles; len(f) != 1 || f[0].Path != "/journal" || f[0].WrittenBytes != 500 {
		t.Errorf("top files %+v", f)
	}
}

func TestCrowd(t *testing.T) {
	a := newTest(t)
	seedFile(a, old(11), root, "log", 0, 0)
	a.SeedDone(1)
	a.Flush(at(1))
	for range 2 {
		var b event.Batch
		for pid := uint32(1); pid <= 100; pid++ {
			b.Deltas = append(b.Deltas, delta(old(11), pid, 1, 0, event.CauseWrite))
		}
		a.Apply(&b)
	}
	got := a.Flush(at(2))
	if len(got) != 101 {
		t.Fatalf("%d records, want 101", len(got))
	}
	for i, r := range got[:100] {
		if g := r.(*record.Growth); g.SizeGrowth != 2 || g.Process.PID != uint32(i+1) {
			t.Fatalf("record %d: pid %d grew %d", i, g.Process.PID, g.SizeGrowth)
		}
	}
}

func TestOverflowAndLosses(t *testing.T) {
	a := newTest(t)
	a.SeedDone(1)
	a.Flush(at(1))
	a.Apply(&event.Batch{Overflows: []event.Overflow{{Layer: 1, Size: 100, Disk: 4096, Written: 7}}})
	expect(t, "at once", a.Losses(at(1)), `loss table_full 1 100`)
	a.Apply(&event.Batch{
		Overflows: []event.Overflow{{Layer: 1, Size: 11}},
		Losses:    []event.Loss{{Layer: 1, Reason: event.LossTableFull, Events: 3, Bytes: 11}, {Reason: event.LossRingFull, Events: 2}},
		Deltas:    []event.Delta{delta(fresh(99, 4), 5, 1, 1, event.CauseWrite)},
	})
	expect(t, "overflow", a.Flush(at(2)),
		`loss table_full 3 11`, `loss ring_full 2 0`, `loss unresolved 1 0`,
		`? "" 0/0 grew 111/4096 unattributed`,
		`/5 "" 1/1 grew 1/1 write`,
		`layer 112/8193 base 0/4096 grew 112/4097 files 0`)
	want := []record.LossTotal{{Reason: "ring_full", Events: 2}, {Reason: "table_full", Events: 4, Bytes: 111}, {Reason: "unresolved", Events: 1}}
	if s := a.Summary(at(3), record.EndedSignal); !slices.Equal(s.Losses, want) {
		t.Errorf("losses %+v, want %+v", s.Losses, want)
	}
}

func TestIncompletePath(t *testing.T) {
	a := newTest(t)
	a.SeedDone(1)
	a.Flush(at(1))
	a.Apply(&event.Batch{Files: []event.FileEvent{fileEvent(event.FileCreated, fresh(21, 1), fresh(20, 1), "f", 5)}})
	got := a.Flush(at(2))
	expect(t, "parent unknown", got,
		`loss unresolved 1 0`, `/5 "f" added 0/0 grew 0/0 create`, `layer 0/4096 base 0/4096 grew 0/0 files 1`)
	if g := got[1].(*record.Growth); !g.File.PathIncomplete {
		t.Error("path is not marked incomplete")
	}

	// Directories nested beyond what a system call can name.
	parent := root
	var b event.Batch
	for i := range uint64(100) {
		f := fresh(100+i, 1)
		e := fileEvent(event.FileCreated, f, parent, strings.Repeat("x", 255), 5)
		e.Mode = directory
		b.Files = append(b.Files, e)
		parent = f
	}
	a.Apply(&b)
	var long int
	for _, r := range a.Flush(at(3)) {
		switch r := r.(type) {
		case *record.Growth:
			if len(r.File.Path) > maxPath+256 {
				t.Fatalf("a path of %d bytes", len(r.File.Path))
			}
		case *record.Loss:
			if r.Reason == string(event.LossPathTooLong) {
				long = int(r.Events)
			}
		}
	}
	if long == 0 {
		t.Error("paths too long were not reported")
	}

	// A loop, as lost events can make one, ends.
	a.Apply(&event.Batch{Files: []event.FileEvent{
		fileEvent(event.FileRenamed, fresh(100, 1), fresh(101, 1), "loop", 5),
	}})
	a.Flush(at(4))
}

func TestFilters(t *testing.T) {
	for _, c := range []struct {
		include, exclude []string
		keeps, drops     []string
	}{
		{nil, nil, []string{"/a"}, nil},
		{[]string{"/var/log"}, nil, []string{"/var/log", "/var/log/a/b"}, []string{"/var", "/var/logs", "/x/var/log"}},
		{[]string{"*.log"}, nil, []string{"/x.log", "/a/b.log", "/a.log/in"}, []string{"/x.logs"}},
		{[]string{"/var/**"}, []string{"/var/cache/"}, []string{"/var/a", "/var"}, []string{"/var/cache", "/var/cache/x", "/b"}},
		{nil, []string{"**/*.{tmp,bak}"}, []string{"/a.c"}, []string{"/a.tmp", "/d/b.bak"}},
		{[]string{"/"}, nil, []string{"/", "/a", "/a/b"}, nil},
		{nil, []string{"/"}, nil, []string{"/", "/a", "/a/b"}},
	} {
		f, err := newFilter(c.include, c.exclude)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range c.keeps {
			if !f.keeps(filePath{text: p, complete: true}) {
				t.Errorf("include %q exclude %q drops %s", c.include, c.exclude, p)
			}
		}
		for _, p := range c.drops {
			if f.keeps(filePath{text: p, complete: true}) {
				t.Errorf("include %q exclude %q keeps %s", c.include, c.exclude, p)
			}
		}
	}
	for _, bad := range []string{"[", ""} {
		if _, err := New(Config{Actors: host{}, Include: []string{bad}}); err == nil {
			t.Errorf("pattern %q was accepted", bad)
		}
	}
}

func TestFilteredGrowthIsSummed(t *testing.T) {
	a := newTest(t, func(c *Config) { c.Exclude = []string{"/tmp"}; c.MinGrowth = 10 })
	seedFile(a, old(11), root, "tmp", 0, 0)
	seedFile(a, old(12), root, "big", 0, 0)
	seedFile(a, old(13), root, "small", 0, 0)
	a.SeedDone(1)
	a.Flush(at(1))
	a.Apply(&event.Batch{Deltas: []event.Delta{
		delta(old(11), 5, 100, 1, 0), delta(old(12), 5, 10, 2, 0), delta(old(13), 5, 9, 4, 0),
	}})
	got := a.Flush(at(2))
	expect(t, "filtered", got, `/5 "/big" added 10/2 grew 10/2 write`, `layer 119/4103 base 0/4096 grew 119/7 files 3`)
	if l := got[1].(*record.Layer); l.FilteredSizeGrowth != 109 || l.FilteredDiskGrowth != 5 {
		t.Errorf("filtered %d/%d, want 109/5", l.FilteredSizeGrowth, l.FilteredDiskGrowth)
	}
}

func TestSeedAfterEvents(t *testing.T) {
	type step func(*Aggregator)
	apply := func(b event.Batch) step { return func(a *Aggregator) { a.Apply(&b) } }
	seed := func(f, parent event.FileID, name string, links uint32, size int64) step {
		return func(a *Aggregator) {
			a.Seed(1, Baseline{File: f, Parent: parent, Name: name, Mode: regular, Links: links, Size: size, Disk: size})
		}
	}
	renamed := event.Batch{Files: []event.FileEvent{fileEvent(event.FileRenamed, old(11), root, "new", 5)}}
	written := event.Batch{Deltas: []event.Delta{delta(old(11), 5, 7, 7, event.CauseWrite)}}
	unlinked := event.Batch{
		Files:  []event.FileEvent{fileEvent(event.FileUnlinked, old(11), root, "f", 5), fileEvent(event.FileGone, old(11), event.FileID{}, "", 0)},
		Deltas: []event.Delta{delta(old(11), 5, -100, -100, event.CauseDelete)},
	}
	created := event.Batch{
		Files:  []event.FileEvent{fileEvent(event.FileCreated, fresh(11, 3), root, "f", 5)},
		Deltas: []event.Delta{delta(fresh(11, 3), 5, 40, 40, event.CauseWrite)},
	}
	for _, c := range []struct {
		name   string
		steps  []step
		path   string // of inode 11
		layer  string
		commut bool // any order gives the same
	}{
		{"written", []step{seed(old(11), root, "f", 1, 100), apply(written)}, "/f",
			"layer 107/4203 base 100/4196 grew 7/7 files 1", true},
		{"renamed, old name seeded", []step{apply(renamed), seed(old(11), root, "old", 1, 100)}, "/new",
			"layer 100/4196 base 100/4196 grew 0/0 files 1", true},
		{"renamed, new name seeded", []step{seed(old(11), root, "new", 1, 100), apply(renamed)}, "/new",
			"layer 100/4196 base 100/4196 grew 0/0 files 1", true},
		{"hard links", []step{seed(old(11), root, "f", 2, 100), seed(old(11), root, "g", 2, 100)}, "/f",
			"layer 100/4196 base 100/4196 grew 0/0 files 1", false},
		{"deleted after the scan", []step{seed(old(11), root, "f", 1, 100), apply(unlinked)}, "",
			"layer 0/4096 base 100/4196 grew -100/-100 files 0", true},
		{"deleted before the scan", []step{apply(unlinked)}, "",
			"layer 0/4096 base 100/4196 grew -100/-100 files 0", false},
		{"created before the scan", []step{apply(created), seed(old(11), root, "f", 1, 40)}, "/f",
			"layer 40/4136 base 0/4096 grew 40/40 files 1", true},
		{"inode used again", []step{apply(unlinked), apply(created), seed(old(11), root, "f", 1, 40)}, "/f",
			"layer 40/4136 base 100/4196 grew -60/-60 files 1", false},
	} {
		orders := [][]step{c.steps}
		if c.commut {
			r := slices.Clone(c.steps)
			slices.Reverse(r)
			orders = append(orders, r)
		}
		for i, steps := range orders {
			t.Run(fmt.Sprintf("%s/%d", c.name, i), func(t *testing.T) {
				a := newTest(t)
				for _, s := range steps {
					s(a)
				}
				a.SeedDone(1)
				got := a.Flush(at(1))
				expect(t, "layer", got[len(got)-1:], c.layer)
				if path, _, _, _ := a.Booked(1, old(11)); path != c.path {
					t.Errorf("path %q, want %q", path, c.path)
				}
			})
		}
	}
}

func TestLateSeed(t *testing.T) {
	a := newTest(t)
	a.SeedDone(1)
	a.Flush(at(1))
	seedFile(a, old(11), root, "missed", 10, 20)
	expect(t, "late", a.Flush(at(2)),
		`? "/missed" added 10/20 grew 10/20 unattributed`, `layer 10/4116 base 0/4096 grew 10/20 files 1`)
}

func TestAudit(t *testing.T) {
	a := newTest(t)
	seedFile(a, old(11), root, "kept", 10, 10)
	seedFile(a, old(12), root, "changed", 10, 10)
	seedFile(a, old(13), root, "vanished", 10, 10)
	seedFile(a, old(14), root, "empty and vanished", 0, 0)
	a.SeedDone(1)
	a.Flush(at(1))
	a.Apply(&event.Batch{Overflows: []event.Overflow{{Layer: 1, Size: 5, Disk: 5}}, Losses: []event.Loss{{Layer: 1, Reason: event.LossTableFull, Events: 1, Bytes: 5}}})
	a.Flush(at(2))

	found := []Found{
		{File: root, Path: "/", Dir: true, Size: 4096, Disk: 4096},
		{File: old(11), Path: "/kept", Size: 10, Disk: 10},
		{File: old(12), Path: "/changed", Size: 15, Disk: 15},
		{File: old(12), Path: "/link to it", Size: 15, Disk: 15},
		{File: old(15), Path: "/sub/new", Size: 3, Disk: 3},
	}
	diffs := a.Compare(1, found)
	want := []Diff{
		{File: old(12), Path: "/changed", Size: 5, Disk: 5},
		{File: old(15), Path: "/sub/new", Size: 3, Disk: 3},
		{File: old(14), Path: "/empty and vanished", Gone: true},
		{File: old(13), Path: "/vanished", Size: -10, Disk: -10, Gone: true},
		{Size: -5, Disk: -5},
	}
	if !slices.Equal(diffs, want) {
		t.Errorf("diffs\n%+v, want\n%+v", diffs, want)
	}
	a.Reconcile(1, diffs)
	expect(t, "reconciled", a.Flush(at(3)),
		`? "/vanished" added deleted 0/0 grew -10/-10 unattributed`,
		`? "" 0/0 grew -5/-5 unattributed`,
		`? "/changed" added 15/15 grew 5/5 unattributed`,
		`? "/sub/new" added 3/3 grew 3/3 unattributed`,
		`? "/empty and vanished" added deleted 0/0 grew 0/0 unattributed`,
		`layer 28/4124 base 30/4126 grew -2/-2 files 3`)
	if diffs := a.Compare(1, found); len(diffs) != 0 {
		t.Errorf("after reconciling, still %+v", diffs)
	}
}

func TestRemoval(t *testing.T) {
	a := newTest(t)
	seedFile(a, old(11), root, "a", 100, 4096)
	seedFile(a, old(12), root, "b", 300, 4096)
	a.SeedDone(1)
	a.Flush(at(1))

	dockerd := event.Process{ID: process(900), Name: "dockerd", CgroupID: 3}
	unmounted := []event.LayerState{{Layer: 1, Mounted: false}}
	teardown := func() *event.Batch {
		return &event.Batch{
			Processes: []event.Process{known(5, "node"), dockerd},
			Files: []event.FileEvent{
				fileEvent(event.FileUnlinked, old(11), root, "a", 900), fileEvent(event.FileGone, old(11), event.FileID{}, "", 900),
			},
			Deltas: []event.Delta{
				delta(old(12), 5, 1, 0, event.CauseWrite),
				delta(old(11), 900, -100, -4096, event.CauseDelete),
			},
			Layers: unmounted,
		}
	}
	a.Apply(teardown())
	expect(t, "while it is removed", a.Flush(at(2)),
		`node/5 "/b" added 301/4096 grew 1/0 write`, `layer 401/12288 base 400/12288 grew 1/0 files 2`)
	expect(t, "removed", a.Removed(1, at(3)),
		`layer 401/12288 base 400/12288 grew 1/0 files 2`, `container removed my-api lost 401/12288 /b=301 /a=100`)
	a.Apply(teardown())
	if got := a.Final(at(4)); len(got) != 0 {
		t.Errorf("records of a removed layer: %s", show(got))
	}
	if s := a.Summary(at(5), record.EndedContainersGone); len(s.Containers) != 1 || !s.Containers[0].Removed || s.Containers[0].Size != 401 {
		t.Errorf("summary %+v", s.Containers)
	}

	// Not removed after all: the deletion was somebody tidying up.
	a = newTest(t)
	seedFile(a, old(11), root, "a", 100, 4096)
	a.SeedDone(1)
	a.Flush(at(1))
	b := teardown()
	b.Deltas = b.Deltas[1:]
	a.Apply(b)
	if got := a.Flush(at(2)); len(got) != 0 {
		t.Errorf("at once: %s", show(got))
	}
	expect(t, "in the end", a.Flush(at(8)),
		`dockerd/900 "/a" added deleted 0/0 grew -100/-4096 delete`, `layer 0/4096 base 100/8192 grew -100/-4096 files 0`)
}

func TestCovered(t *testing.T) {
	a := newTest(t, func(c *Config) { c.IncludeCovered = true })
	a.SeedDone(1)
	a.Flush(at(1))
	c := event.Covered{Layer: 1, Device: 8, Inode: 77, Process: process(5), Path: "/data/x", Size: 10, Written: 20, Writes: 2, FileSize: 110, Causes: event.CauseWrite}
	c2 := c
	c2.Path, c2.FileSize = "", 120
	a.Apply(&event.Batch{Processes: []event.Process{known(5, "node")}, Covered: []event.Covered{c, c2,
		{Layer: 1, Device: 9, Inode: 78, Process: process(5), Path: "/data/y", Written: 1, Writes: 1}}})
	got := a.Flush(at(2))
	expect(t, "covered", got,
		`node/5 "/data/x" on volume 120/0 grew 20/0 write`,
		`node/5 "/data/y" on volume 0/0 grew 0/0 write`)
	if g := got[0].(*record.Growth); g.WrittenBytes != 40 || g.Writes != 4 {
		t.Errorf("written %d in %d", g.WrittenBytes, g.Writes)
	}
	s := a.Summary(at(3), record.EndedSignal)
	if cov := s.Containers[0].Covered; len(cov) != 1 || cov[0].WrittenBytes != 41 || cov[0].Storage.Name != "vol" {
		t.Errorf("covered totals %+v", cov)
	}
}

func TestSummaryRanks(t *testing.T) {
	a := newTest(t)
	a.SeedDone(1)
	var b event.Batch
	for i := range uint64(30) {
		f := fresh(100+i, 1)
		b.Processes = append(b.Processes, known(uint32(i+1), fmt.Sprintf("p%02d", i%15)))
		b.Files = append(b.Files, fileEvent(event.FileCreated, f, root, fmt.Sprintf("f%02d", i), uint32(i+1)))
		b.Deltas = append(b.Deltas, delta(f, uint32(i+1), int64(i), 0, event.CauseWrite))
	}
	a.Apply(&b)
	a.Final(at(1))
	s := a.Summary(at(61), record.EndedDuration)
	if s.DurationMS != 61000 || s.Ended != "duration" {
		t.Errorf("summary %+v", s)
	}
	c := s.Containers[0]
	if len(c.TopFiles) != 10 || c.TopFiles[0].Path != "/f29" || c.TopFiles[9].Path != "/f20" {
		t.Errorf("files %+v", c.TopFiles)
	}
	if len(c.TopProcesses) != 10 || c.TopProcesses[0].Name != "p14" || c.TopProcesses[0].Processes != 2 || c.TopProcesses[0].SizeGrowth != 43 {
		t.Errorf("processes %+v", c.TopProcesses)
	}
}

func TestRenamedAndOrder(t *testing.T) {
	a := newTest(t)
	other := record.Container{ID: strings.Repeat("b", 64), Name: "zoo"}
	a.AddLayer(2, other)
	a.SeedDone(1)
	a.SeedDone(2)
	names := func(recs []record.Record) (names []string) {
		for _, r := range recs {
			names = append(names, r.(*record.Layer).Container.Name)
		}
		return names
	}
	if got := names(a.Flush(at(1))); !slices.Equal(got, []string{"my-api", "zoo"}) {
		t.Errorf("order %q", got)
	}
	other.Name = "aaa"
	expect(t, "renamed", a.Renamed(2, other, at(2)), "container renamed aaa")
	if got := a.Renamed(2, other, at(2)); got != nil {
		t.Errorf("renamed to the same: %s", show(got))
	}
	if got := names(a.Final(at(3))); !slices.Equal(got, []string{"aaa", "my-api"}) {
		t.Errorf("order %q", got)
	}
	expect(t, "stopped", a.Stopped(2, at(4)), "container stopped aaa")
}

func TestProcessesAreForgotten(t *testing.T) {
	ps := newProcs(host{})
	for pid := uint32(1); pid <= 100; pid++ {
		ps.epoch = uint64(pid)
		ps.learn(&event.Process{ID: process(pid*30 + 1), Name: "x"}) // those from pid 1021 have ended
	}
	ps.epoch++
	ps.shrink(80, func(yield func(procID)) { yield(ps.byID[process(40*30+1)]) })
	if n := len(ps.byID); n != 70 {
		t.Errorf("%d processes left, want 70", n)
	}
	for _, pid := range []uint32{31, 33*30 + 1, 40*30 + 1, 100*30 + 1} {
		if _, ok := ps.byID[process(pid)]; !ok {
			t.Errorf("pid %d was forgotten", pid)
		}
	}
}

// TestRecordsFitTheSchema writes a run with every kind of record and name.
func TestRecordsFitTheSchema(t *testing.T) {
	a := newTest(t, func(c *Config) { c.IncludeCovered = true; c.Exclude = []string{"/filtered"} })
	seedFile(a, old(11), root, "f", 100, 4096)
	a.SeedDone(1)
	dir := fileEvent(event.FileCreated, fresh(20, 1), root, "d", 5)
	dir.Mode = directory
	a.Apply(&event.Batch{
		Processes: []event.Process{known(5, "node"), {ID: process(2000), Name: "\xffodd", Executable: "/\xfe"}},
		Files: []event.FileEvent{
			dir,
			fileEvent(event.FileCreated, fresh(21, 1), fresh(20, 1), "\xff\xfe", 5),
			fileEvent(event.FileRenamed, fresh(21, 1), root, "\xfd", 2000),
			fileEvent(event.FileLinked, old(11), root, "g", 5),
			fileEvent(event.FileUnlinked, old(11), root, "f", 5),
			fileEvent(event.FileWhiteout, event.FileID{}, root, "w", 5),
			fileEvent(event.FileCopiedUp, fresh(22, 1), fresh(99, 9), "lost", 5),
			fileEvent(event.FileUnlinked, old(33), root, "never seen", 0),
			fileEvent(event.FileCreated, fresh(34, 1), root, "filtered", 5),
		},
		Deltas: []event.Delta{
			delta(fresh(21, 1), 5, 10, 4096, event.CauseWrite|event.CauseMmap),
			delta(fresh(34, 1), 5, 10, 4096, event.CauseWrite),
			delta(old(44), 3000, 1, 1, 0),
			delta(event.FileID{}, 0, 1, 1, 0),
		},
		Covered: []event.Covered{
			{Layer: 1, Device: 8, Inode: 77, Process: process(5), Path: "/data/x", Size: 10, Written: 20, Writes: 2, FileSize: 110},
			{Layer: 1, Device: 8, Inode: 78, Written: 1, Writes: 1, Causes: event.CauseWrite},
		},
		Overflows: []event.Overflow{{Layer: 1, Size: 5, Disk: 5, Written: 5}},
		Losses:    []event.Loss{{Reason: event.LossRecursion, Events: 1}},
		Layers:    []event.LayerState{{Layer: 1, OpenDeleted: 4096, Mounted: true}},
	})
	var recs []record.Record
	recs = append(recs, a.Losses(at(1))...)
	recs = append(recs, a.Flush(at(1))...)
	other := api
	other.Name = "renamed"
	recs = append(recs, a.Renamed(1, other, at(2))...)
	recs = append(recs, a.Stopped(1, at(3))...)
	recs = append(recs, a.Final(at(4))...)
	recs = append(recs, a.Summary(at(5), record.EndedSignal))
	recs = append(recs, a.Removed(1, at(6))...)
	recs = append(recs, a.Summary(at(7), record.EndedContainersGone))

	seen := make(map[string]bool)
	var b bytes.Buffer
	w := output.NewNDJSON(&b)
	for _, r := range recs {
		seen[r.Head().Type] = true
		if err := w.Write(r); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(b.Bytes()) {
		if err := outputtest.Validate(line); err != nil {
			t.Error(err)
		}
	}
	for _, typ := range []string{"growth", "layer", "container", "loss", "summary"} {
		if !seen[typ] {
			t.Errorf("no record of type %s", typ)
		}
	}
}

// A whiteout that something else has replaced by the interval's end is no more.
func TestWhiteoutReplaced(t *testing.T) {
	a := newTest(t)
	a.SeedDone(1)
	a.Flush(at(1))
	a.Apply(&event.Batch{
		Files: []event.FileEvent{
			fileEvent(event.FileWhiteout, event.FileID{}, root, "again", 5),
			fileEvent(event.FileWhiteout, event.FileID{}, root, "stays", 5),
			fileEvent(event.FileCreated, event.FileID{Inode: 20, Generation: 1}, root, "again", 5),
		},
	})
	got := a.Flush(at(2))
	expect(t, "replaced", got[:2],
		`/5 "/again" added 0/0 grew 0/0 create`,
		`/5 "/stays" whiteout deleted 0/0 grew 0/0 delete`)
}
