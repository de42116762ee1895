package aggregate

import (
	"bytes"
	"testing"

	"github.com/layertrace/layertrace/internal/output"
	"github.com/layertrace/layertrace/internal/output/outputtest"
	"github.com/layertrace/layertrace/internal/record"
	"github.com/layertrace/layertrace/tracer/event"
)

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
	a.Log(1, record.LogTotals{Driver: "json-file", Path: "/l", Files: 1, Size: 10, Allocated: 4096, BaselineSize: 4})
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
	for _, typ := range []string{"growth", "layer", "container", "log", "loss", "summary"} {
		if !seen[typ] {
			t.Errorf("no record of type %s", typ)
		}
	}
}
