package aggregate

import (
	"slices"
	"testing"

	"github.com/layertrace/layertrace/tracer/event"
)

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
