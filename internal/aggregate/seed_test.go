package aggregate

import (
	"fmt"
	"slices"
	"testing"

	"github.com/layertrace/layertrace/internal/record"
	"github.com/layertrace/layertrace/tracer/event"
)

func TestSeedAfterEvents(t *testing.T) {
	type step func(*Aggregator)
	apply := func(b event.Batch) step { return func(a *Aggregator) { a.Apply(&b) } }
	seed := func(f, parent event.FileID, name string, links uint32, size int64) step {
		return func(a *Aggregator) {
			a.Seed(1, Baseline{File: f, Parent: parent, Name: name, Mode: regular, Links: links, Size: size, Disk: size})
		}
	}
	further := func(f, parent event.FileID, name string, mode, links uint32) step {
		return func(a *Aggregator) {
			a.Seed(1, Baseline{File: f, Parent: parent, Name: name, Mode: mode, Links: links, Further: true})
		}
	}
	dir := func(f, parent event.FileID, name string) step {
		return func(a *Aggregator) {
			a.Seed(1, Baseline{File: f, Parent: parent, Name: name, Mode: directory, Links: 2, Disk: 100})
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
	replaced := event.Batch{
		Files:  []event.FileEvent{fileEvent(event.FileRenamed, fresh(12, 4), root, "f", 5)},
		Deltas: []event.Delta{delta(old(11), 5, -100, -100, event.CauseDelete)},
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
		{"renamed, both names seeded", []step{seed(old(11), root, "old", 1, 100), further(old(11), root, "new", regular, 1), apply(renamed)}, "/new",
			"layer 100/4196 base 100/4196 grew 0/0 files 1", true},
		{"renamed between", []step{seed(old(11), root, "old", 1, 100), apply(renamed), further(old(11), root, "new", regular, 1)}, "/new",
			"layer 100/4196 base 100/4196 grew 0/0 files 1", true},
		{"directory renamed between", []step{dir(old(11), root, "old"), apply(renamed), further(old(11), root, "new", directory, 2)}, "/new",
			"layer 0/4196 base 0/4196 grew 0/0 files 0", true},
		{"moved unseen", []step{seed(old(11), root, "old", 1, 100), further(old(11), root, "new", regular, 1)}, "/new",
			"layer 100/4196 base 100/4196 grew 0/0 files 1", true},
		{"directory moved unseen", []step{dir(old(11), root, "old"), further(old(11), root, "new", directory, 2)}, "/new",
			"layer 0/4196 base 0/4196 grew 0/0 files 0", true},
		{"hard links", []step{seed(old(11), root, "f", 2, 100), seed(old(11), root, "g", 2, 100)}, "/f",
			"layer 100/4196 base 100/4196 grew 0/0 files 1", false},
		{"deleted after the scan", []step{seed(old(11), root, "f", 1, 100), apply(unlinked)}, "",
			"layer 0/4096 base 100/4196 grew -100/-100 files 0", true},
		{"deleted before the scan", []step{apply(unlinked)}, "",
			"layer 0/4096 base 100/4196 grew -100/-100 files 0", false},
		{"replaced after the scan", []step{seed(old(11), root, "f", 1, 100), apply(replaced)}, "",
			"layer 0/4096 base 100/4196 grew -100/-100 files 1", true},
		{"replaced before the scan", []step{apply(replaced)}, "",
			"layer 0/4096 base 100/4196 grew -100/-100 files 1", false},
		{"inode used again", []step{apply(unlinked), apply(created), seed(old(11), root, "f", 1, 100)}, "/f",
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
				if path := a.Booked(1, event.FileID{Inode: 11}).Path; path != c.path {
					t.Errorf("path %q, want %q", path, c.path)
				}
			})
		}
	}
}

// A file of the baseline was replaced by a rename, and its inode number is another
// file's, when the scan tells its name.
func TestSeedOfReplaced(t *testing.T) {
	a := newTest(t)
	a.Apply(&event.Batch{
		Processes: []event.Process{known(5, "node")},
		Files: []event.FileEvent{
			fileEvent(event.FileRenamed, fresh(12, 3), root, "f", 5),
			fileEvent(event.FileGone, old(11), event.FileID{}, "", 0),
			fileEvent(event.FileCreated, fresh(11, 4), root, "g", 5),
		},
		Deltas: []event.Delta{
			delta(old(11), 5, -100, -512, event.CauseDelete),
			delta(fresh(12, 3), 5, 0, 0, event.CauseRename),
			delta(fresh(11, 4), 5, 40, 512, event.CauseCreate),
		},
	})
	a.Flush(at(1)) // for the sake of other layers
	seedFile(a, old(11), root, "f", 100, 512)
	a.SeedDone(1)
	expect(t, "replaced", a.Flush(at(2)),
		`node/5 "/f" added deleted 0/0 grew -100/-512 delete`,
		`node/5 "/g" added 40/512 grew 40/512 create`,
		`node/5 "/f" added 0/0 grew 0/0 rename`,
		`layer 40/4608 base 100/4608 grew -60/0 files 2`)
}

func TestLateSeed(t *testing.T) {
	a := newTest(t)
	a.SeedDone(1)
	a.Flush(at(1))
	seedFile(a, old(11), root, "missed", 10, 20)
	expect(t, "late", a.Flush(at(2)),
		`? "/missed" added 10/20 grew 10/20 unattributed`, `layer 10/4116 base 0/4096 grew 10/20 files 1`)
}

// A container was noticed after it had begun to write.
func TestLateLayer(t *testing.T) {
	a := newTest(t)
	seedFile(a, old(11), root, "before", 10, 20)
	seedFile(a, old(12), root, "deleted", 3, 4)
	a.Apply(&event.Batch{
		Files: []event.FileEvent{
			fileEvent(event.FileCreated, fresh(13, 3), root, "f", 5),
			fileEvent(event.FileUnlinked, old(12), root, "deleted", 5),
		},
		Processes: []event.Process{known(5, "node")},
		Deltas: []event.Delta{
			delta(old(11), 5, 1, 1, event.CauseWrite),
			delta(old(12), 5, -3, -4, event.CauseDelete),
			delta(fresh(13, 3), 5, 40, 40, event.CauseCreate),
		},
	})
	if size, disk := a.SeedLate(1); size != 13 || disk != 24 {
		t.Errorf("late: %d/%d", size, disk)
	}
	got := a.Flush(at(1))
	expect(t, "layer", got[len(got)-1:], `layer 51/4157 base 0/4096 grew 51/61 files 2`)
	var size, attributed int64
	for _, rec := range got {
		if g, ok := rec.(*record.Growth); ok {
			size += g.SizeGrowth
			if g.Process != nil {
				attributed += g.SizeGrowth
			}
		}
	}
	if size != 51 || attributed != 38 {
		t.Errorf("growth records: %d, of which attributed %d", size, attributed)
	}
	if diffs := a.Compare(1, []Found{
		{File: root, Path: "/", Dir: true, Disk: 4096},
		{File: old(11), Path: "/before", Size: 11, Disk: 21},
		{File: fresh(13, 3), Path: "/f", Size: 40, Disk: 40},
	}); len(diffs) != 0 {
		t.Errorf("differs: %+v", diffs)
	}
}

func TestMissed(t *testing.T) {
	a := newTest(t)
	a.SeedDone(1)
	got := a.Missed(record.Container{ID: "b", Name: "job"}, at(1))
	if l, ok := got[0].(*record.Loss); len(got) != 1 || !ok || l.Reason != record.LossUnresolved || l.Events != 1 || l.Container.Name != "job" {
		t.Errorf("%+v", got)
	}
	if s := a.Summary(at(2), record.EndedSignal); len(s.Losses) != 1 || s.Losses[0].Events != 1 {
		t.Errorf("%+v", s.Losses)
	}
}
