package aggregate

import (
	"strings"
	"testing"

	"github.com/layertrace/layertrace/internal/record"
	"github.com/layertrace/layertrace/tracer/event"
)

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
	if b := a.Booked(1, old(11)); b.Path != "/etc/t/alias" {
		t.Errorf("the file that was linked is %+v", b)
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

// A whiteout that something else has replaced by the interval's end is no more.
func TestWhiteoutReplaced(t *testing.T) {
	a := newTest(t)
	a.SeedDone(1)
	a.Flush(at(1))
	a.Apply(&event.Batch{
		Files: []event.FileEvent{
			fileEvent(event.FileWhiteout, event.FileID{}, root, "again", 5),
			fileEvent(event.FileWhiteout, event.FileID{}, root, "stays", 5),
			fileEvent(event.FileCreated, fresh(20, 1), root, "again", 5),
		},
	})
	got := a.Flush(at(2))
	expect(t, "replaced", got[:2],
		`/5 "/again" added 0/0 grew 0/0 create`,
		`/5 "/stays" whiteout deleted 0/0 grew 0/0 delete`)
}

// A whiteout that takes disk, as a rename may leave it, is a file of the books.
func TestWhiteoutWithDisk(t *testing.T) {
	a := newTest(t)
	a.SeedDone(1)
	a.Flush(at(1))
	moved, left := fresh(20, 1), fresh(21, 1)
	a.Apply(&event.Batch{
		Processes: []event.Process{known(5, "mv")},
		Files: []event.FileEvent{
			fileEvent(event.FileCopiedUp, moved, root, "old", 5),
			fileEvent(event.FileRenamed, moved, root, "new", 5),
			fileEvent(event.FileWhiteout, left, root, "old", 5),
		},
		Deltas: []event.Delta{
			{Layer: 1, File: moved, Process: process(5), Size: 70, Disk: 4096, CopyUp: 70, Causes: event.CauseCopyUp},
			delta(left, 5, 0, 4096, event.CauseRename),
		},
	})
	expect(t, "renamed", a.Flush(at(2)),
		`mv/5 "/new" was "/old" copied_up 70/4096 grew 70/4096 copy_up,rename`,
		`mv/5 "/old" whiteout 0/4096 grew 0/4096 rename`,
		`layer 70/12288 base 0/4096 grew 70/8192 files 1`)
	a.Apply(&event.Batch{
		Files:  []event.FileEvent{fileEvent(event.FileCreated, fresh(22, 2), root, "old", 5), fileEvent(event.FileGone, left, event.FileID{}, "", 5)},
		Deltas: []event.Delta{delta(left, 5, 0, -4096, event.CauseDelete)},
	})
	expect(t, "replaced", a.Flush(at(3)),
		`mv/5 "/old" whiteout deleted 0/0 grew 0/-4096 delete`,
		`mv/5 "/old" added 0/0 grew 0/0 create`,
		`layer 70/8192 base 0/4096 grew 70/4096 files 2`)
}

// A file of several names that has lost those in the layer, and of which overlayfs
// keeps a copy in its index, comes back under another name.
func TestBackFromIndex(t *testing.T) {
	a := newTest(t)
	a.SeedDone(1)
	a.Flush(at(1))
	f := fresh(20, 1)
	up := event.Delta{Layer: 1, File: f, Process: process(5), Size: 70, Disk: 4096, CopyUp: 70, Causes: event.CauseCopyUp}
	a.Apply(&event.Batch{
		Processes: []event.Process{known(5, "sh")},
		Files:     []event.FileEvent{fileEvent(event.FileCopiedUp, f, root, "a", 5), fileEvent(event.FileUnlinked, f, root, "a", 5)},
		Deltas:    []event.Delta{up, delta(f, 5, -70, -4096, event.CauseDelete)},
	})
	a.Flush(at(2))
	a.Apply(&event.Batch{
		Files:  []event.FileEvent{fileEvent(event.FileCopiedUp, f, root, "b", 5)},
		Deltas: []event.Delta{up},
	})
	expect(t, "back", a.Flush(at(3)),
		`sh/5 "/b" copied_up 70/4096 grew 70/4096 copy_up`,
		`layer 70/8192 base 0/4096 grew 70/4096 files 1`)
}

// auditEmpty holds the books against a disk that has nothing but the root.
func auditEmpty(t *testing.T, a *Aggregator) {
	t.Helper()
	if diffs := a.Compare(1, []Found{{File: root, Path: "/", Dir: true, Disk: 4096}}); len(diffs) != 0 {
		t.Errorf("beyond the books: %+v", diffs)
	}
}

// A file that is deleted while it is open leaves the layer at once, and nothing is
// left to be said of it when it is closed.
func TestDeletedWhileOpen(t *testing.T) {
	a := newTest(t)
	a.SeedDone(1)
	a.Flush(at(1))
	f := fresh(21, 1)
	a.Apply(&event.Batch{
		Processes: []event.Process{known(5, "sh")},
		Files:     []event.FileEvent{fileEvent(event.FileCreated, f, root, "f", 5)},
		Deltas:    []event.Delta{delta(f, 5, 1000, 4096, event.CauseCreate|event.CauseWrite)},
	})
	expect(t, "written", a.Flush(at(2)),
		`sh/5 "/f" added 1000/4096 grew 1000/4096 write,create`, `layer 1000/8192 base 0/4096 grew 1000/4096 files 1`)
	a.Apply(&event.Batch{
		Files:  []event.FileEvent{fileEvent(event.FileUnlinked, f, root, "f", 5)},
		Deltas: []event.Delta{delta(f, 5, -1000, -4096, event.CauseDelete)},
		Layers: []event.LayerState{{Layer: 1, OpenDeleted: 4096, Mounted: true}},
	})
	expect(t, "deleted", a.Flush(at(3)),
		`sh/5 "/f" added deleted 0/0 grew -1000/-4096 delete`, `layer 0/4096 base 0/4096 grew 0/0 files 0`)
	auditEmpty(t, a)
	a.Apply(&event.Batch{
		Deltas: []event.Delta{{Layer: 1, File: f, Process: process(5), Written: 10, Writes: 1, Causes: event.CauseWrite}},
		Layers: []event.LayerState{{Layer: 1, OpenDeleted: 8192, Mounted: true}},
	})
	expect(t, "written again", a.Flush(at(4)),
		`sh/5 "/f" added deleted 0/0 grew 0/0 write`, `layer 0/4096 base 0/4096 grew 0/0 files 0`)
	a.Apply(&event.Batch{
		Files:  []event.FileEvent{fileEvent(event.FileGone, f, event.FileID{}, "", 0)},
		Layers: []event.LayerState{{Layer: 1, Mounted: true}},
	})
	auditEmpty(t, a)
	expect(t, "closed", a.Final(at(5)), `layer 0/4096 base 0/4096 grew 0/0 files 0`)
}

// Of a file that another one is renamed over, no event tells before it is freed.
func TestRenamedOver(t *testing.T) {
	replaced, by := old(11), fresh(21, 1)
	rename := fileEvent(event.FileRenamed, by, root, "f", 5)
	deleted := delta(replaced, 5, -50, -4096, event.CauseDelete)
	begin := func() *Aggregator {
		a := newTest(t)
		seedFile(a, replaced, root, "f", 50, 4096)
		a.SeedDone(1)
		a.Apply(&event.Batch{
			Processes: []event.Process{known(5, "sh")},
			Files:     []event.FileEvent{fileEvent(event.FileCreated, by, root, "f.new", 5)},
			Deltas:    []event.Delta{delta(by, 5, 7, 0, event.CauseCreate)},
		})
		a.Flush(at(1))
		return a
	}
	end := func(a *Aggregator) {
		t.Helper()
		if b := a.Booked(1, replaced); b.Named {
			t.Errorf("the replaced file is still %q", b.Path)
		}
		a.Apply(&event.Batch{
			Files: []event.FileEvent{
				fileEvent(event.FileGone, replaced, event.FileID{}, "", 0),
				fileEvent(event.FileUnlinked, by, root, "f", 5), fileEvent(event.FileGone, by, event.FileID{}, "", 0),
			},
			Deltas: []event.Delta{delta(by, 5, -7, 0, event.CauseDelete)},
		})
		auditEmpty(t, a)
		expect(t, "closed", a.Final(at(9)),
			`sh/5 "/f" added deleted 0/0 grew -7/0 delete`, `layer 0/4096 base 50/8192 grew -50/-4096 files 0`)
	}

	a := begin()
	a.Apply(&event.Batch{Files: []event.FileEvent{rename}, Deltas: []event.Delta{deleted}})
	expect(t, "replaced", a.Flush(at(2)),
		`sh/5 "/f" added deleted 0/0 grew -50/-4096 delete`,
		`sh/5 "/f" was "/f.new" added 7/0 grew 0/0 rename`,
		`layer 7/4096 base 50/8192 grew -43/-4096 files 1`)
	end(a)

	// What was booked comes before the name.
	a = begin()
	a.Apply(&event.Batch{Deltas: []event.Delta{deleted}})
	expect(t, "booked", a.Flush(at(2)),
		`sh/5 "/f" added 0/0 grew -50/-4096 delete`, `layer 7/4096 base 50/8192 grew -43/-4096 files 2`)
	a.Apply(&event.Batch{Files: []event.FileEvent{rename}})
	expect(t, "replaced", a.Flush(at(3)),
		`sh/5 "/f" added deleted 0/0 grew 0/0 delete`,
		`sh/5 "/f" was "/f.new" added 7/0 grew 0/0 rename`,
		`layer 7/4096 base 50/8192 grew -43/-4096 files 1`)
	end(a)

	// One that has another name stays.
	a = begin()
	a.Apply(&event.Batch{Files: []event.FileEvent{fileEvent(event.FileLinked, replaced, root, "g", 5), rename}})
	a.Flush(at(2))
	if b := a.Booked(1, replaced); b.Path != "/g" || b.Size != 50 {
		t.Errorf("the file with another name is %+v", b)
	}

	// One that gets a name in return stays, too.
	a = begin()
	a.Apply(&event.Batch{Files: []event.FileEvent{rename, fileEvent(event.FileRenamed, replaced, root, "f.new", 5)}})
	expect(t, "exchanged", a.Flush(at(2)),
		`sh/5 "/f" was "/f.new" added 7/0 grew 0/0 rename`,
		`sh/5 "/f.new" was "/f" added 50/4096 grew 0/0 rename`,
		`layer 57/8192 base 50/8192 grew 7/0 files 2`)
}

// A file that was told of under a name of its own is told of when it ends, also where
// another follows it under the name that it had then: whoever keeps the files of a layer
// by what the records say would keep it for good.
func TestEndUnderAnotherName(t *testing.T) {
	a := newTest(t)
	seedFile(a, old(11), root, "old", 50, 4096)
	a.SeedDone(1)
	a.Apply(&event.Batch{
		Processes: []event.Process{known(5, "sh")},
		Files:     []event.FileEvent{fileEvent(event.FileCreated, fresh(21, 1), root, "told", 5)},
		Deltas:    []event.Delta{delta(fresh(21, 1), 5, 7, 0, event.CauseCreate)},
	})
	a.Flush(at(1))
	var b event.Batch
	for _, f := range []event.FileID{fresh(21, 1), old(11), fresh(22, 2), fresh(23, 3)} {
		if f.Generation&^event.Born > 1 {
			b.Files = append(b.Files, fileEvent(event.FileCreated, f, root, "temp", 5))
			b.Deltas = append(b.Deltas, delta(f, 5, 9, 0, event.CauseCreate), delta(f, 5, -9, 0, event.CauseDelete))
		}
		b.Files = append(b.Files, fileEvent(event.FileRenamed, f, root, "r", 5))
	}
	b.Files = append(b.Files, fileEvent(event.FileUnlinked, fresh(23, 3), root, "r", 5))
	b.Deltas = append(b.Deltas, delta(fresh(21, 1), 5, -7, 0, event.CauseDelete), delta(old(11), 5, -50, -4096, event.CauseDelete))
	a.Apply(&b)
	expect(t, "at once", a.Flush(at(2)),
		`sh/5 "/r" was "/old" added deleted 0/0 grew -50/-4096 delete,rename`,
		`sh/5 "/r" was "/told" added deleted 0/0 grew -7/0 delete,rename`,
		`sh/5 "/r" was "/temp" added deleted 0/0 grew 0/0 create,delete,rename`,
		`layer 0/4096 base 50/8192 grew -50/-4096 files 0`)
}
