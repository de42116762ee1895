package aggregate

import (
	"slices"
	"strings"
	"testing"

	"github.com/layertrace/layertrace/internal/record"
	"github.com/layertrace/layertrace/tracer/event"
)

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

// A runtime unmounts a layer and then deletes it: of that the kernel side tells
// which inodes it freed, and books nothing.
func TestRemoval(t *testing.T) {
	a := newTest(t)
	seedFile(a, old(11), root, "a", 100, 4096)
	seedFile(a, old(12), root, "b", 300, 4096)
	seedFile(a, old(13), root, "open", 7, 0)
	a.SeedDone(1)
	a.Flush(at(1))
	a.Apply(&event.Batch{
		Processes: []event.Process{known(5, "node")},
		Files:     []event.FileEvent{fileEvent(event.FileUnlinked, old(13), root, "open", 5)},
		Deltas:    []event.Delta{delta(old(13), 5, -7, 0, event.CauseDelete)},
	})
	a.Flush(at(2))

	teardown := &event.Batch{
		Files: []event.FileEvent{
			fileEvent(event.FileGone, old(13), event.FileID{}, "", 0), // its last process had ended
			fileEvent(event.FileGone, old(11), event.FileID{}, "", 0),
		},
		Deltas: []event.Delta{delta(old(12), 5, 1, 0, event.CauseWrite)},
		Layers: []event.LayerState{{Layer: 1, Mounted: false}},
	}
	a.Apply(teardown)
	expect(t, "while it is removed", a.Flush(at(3)),
		`node/5 "/b" added 301/4096 grew 1/0 write`, `layer 401/12288 base 407/12288 grew -6/0 files 2`)
	a.Apply(&event.Batch{Layers: teardown.Layers})
	a.Flush(at(4))
	if n := a.layers[1].tree.find(old(13)); n != 0 {
		t.Error("a file that was deleted before is still in the tree")
	}
	expect(t, "removed", a.Removed(1, at(5)),
		`layer 401/12288 base 407/12288 grew -6/0 files 2`, `container removed my-api lost 401/12288 /b=301 /a=100`)
	a.Apply(teardown)
	if got := a.Final(at(6)); len(got) != 0 {
		t.Errorf("records of a removed layer: %s", show(got))
	}
	if s := a.Summary(at(7), record.EndedContainersGone); len(s.Containers) != 1 || !s.Containers[0].Removed || s.Containers[0].Size != 401 {
		t.Errorf("summary %+v", s.Containers)
	}
}

// Somebody else deletes a file of a stopped container, and another file gets its
// inode number later.
func TestInodeUsedAgainAfterAStop(t *testing.T) {
	a := newTest(t)
	seedFile(a, old(11), root, "a", 100, 4096)
	a.SeedDone(1)
	a.Flush(at(1))
	a.Apply(&event.Batch{
		Files:  []event.FileEvent{fileEvent(event.FileGone, old(11), event.FileID{}, "", 0)},
		Layers: []event.LayerState{{Layer: 1, Mounted: false}},
	})
	a.Apply(&event.Batch{
		Processes: []event.Process{known(5, "node")},
		Files:     []event.FileEvent{fileEvent(event.FileCreated, fresh(11, 1), root, "b", 5)},
		Deltas:    []event.Delta{delta(fresh(11, 1), 5, 7, 512, event.CauseCreate)},
		Layers:    []event.LayerState{{Layer: 1, Mounted: true}},
	})
	expect(t, "used again", a.Flush(at(2)),
		`node/5 "/b" added 7/512 grew 7/512 create`, `layer 107/8704 base 100/8192 grew 7/512 files 1`)
	a.Apply(&event.Batch{}) // what might still come of the one that is gone
	diffs := a.Compare(1, []Found{
		{File: root, Path: "/", Dir: true, Disk: 4096},
		{File: event.FileID{Inode: 11}, Path: "/b", Size: 7, Disk: 512},
	})
	if want := []Diff{{Size: -100, Disk: -4096}}; !slices.Equal(diffs, want) {
		t.Errorf("diffs\n%+v, want\n%+v", diffs, want)
	}
}

func TestLeftOut(t *testing.T) {
	a := newTest(t)
	seedFile(a, old(11), root, "a", 100, 4096)
	expect(t, "left out", a.LeaveOut(1, at(1)), `loss table_full 1 0`)
	a.Apply(&event.Batch{Deltas: []event.Delta{delta(old(11), 5, 1, 0, event.CauseWrite)}})
	if got := append(a.LeaveOut(1, at(2)), a.Final(at(2))...); len(got) != 0 {
		t.Errorf("records of a layer that was left out: %s", show(got))
	}
	s := a.Summary(at(3), record.EndedSignal)
	if want := []record.LossTotal{{Reason: "table_full", Events: 1}}; len(s.Containers) != 0 || !slices.Equal(s.Losses, want) {
		t.Errorf("summary %+v", s)
	}
}

// The id of a layer that is gone is as good as any other.
func TestIDUsedAgain(t *testing.T) {
	write := &event.Batch{
		Processes: []event.Process{known(5, "node")},
		Deltas:    []event.Delta{delta(old(11), 5, 1, 0, event.CauseWrite)},
	}
	a := newTest(t)
	for i := range 3 {
		if i > 0 {
			a.AddLayer(1, record.Container{ID: strings.Repeat("b", 64), Name: "next"})
			a.Seed(1, Baseline{File: root, Mode: directory, Disk: 4096})
		}
		seedFile(a, old(11), root, "a", 100, 4096)
		a.SeedDone(1)
		a.Apply(write)
		expect(t, "life", a.Flush(at(i)),
			`node/5 "/a" added 101/4096 grew 1/0 write`, `layer 101/8192 base 100/8192 grew 1/0 files 1`)
		a.Removed(1, at(i))
	}
	for _, c := range a.Summary(at(4), record.EndedSignal).Containers {
		if p := c.TopProcesses; len(p) != 1 || p[0].Processes != 1 {
			t.Errorf("processes of %s: %+v", c.Container.Name, p)
		}
	}
}
