package aggregate

import (
	"slices"
	"testing"

	"github.com/layertrace/layertrace/internal/record"
	"github.com/layertrace/layertrace/tracer/event"
)

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

// The counters were collected in the midst of a call: what it freed is booked by then,
// and its cause when it returns.
func TestLateCause(t *testing.T) {
	freed := event.Batch{Processes: []event.Process{known(5, "node")}, Deltas: []event.Delta{delta(old(11), 5, 0, -4096, 0)}}
	caused := event.Batch{Deltas: []event.Delta{delta(old(11), 5, 0, 0, event.CauseMetadata)}}
	start := func(t *testing.T) *Aggregator {
		a := newTest(t)
		seedFile(a, old(11), root, "f", 100, 8192)
		a.SeedDone(1)
		a.Flush(at(1))
		a.Apply(&freed)
		return a
	}
	t.Run("in the interval", func(t *testing.T) {
		a := start(t)
		a.Apply(&caused)
		expect(t, "both", a.Flush(at(2)),
			`node/5 "/f" added 100/4096 grew 0/-4096 metadata`, `layer 100/8192 base 100/12288 grew 0/-4096 files 1`)
	})
	t.Run("in the next one", func(t *testing.T) {
		a := start(t)
		expect(t, "first", a.Flush(at(2)),
			`node/5 "/f" added 100/4096 grew 0/-4096 write`, `layer 100/8192 base 100/12288 grew 0/-4096 files 1`)
		a.Apply(&caused)
		expect(t, "second", a.Flush(at(3)),
			`node/5 "/f" added 100/4096 grew 0/0 metadata`, `layer 100/8192 base 100/12288 grew 0/-4096 files 1`)
	})
	t.Run("alone", func(t *testing.T) {
		a := start(t)
		a.Flush(at(2))
		a.Flush(at(3))
		a.Apply(&caused)
		expect(t, "nothing", a.Flush(at(4)))
	})
}
