package aggregate

import (
	"testing"

	"github.com/layertrace/layertrace/internal/record"
)

// logsIn returns the log records among recs.
func logsIn(recs []record.Record) []*record.Log {
	var logs []*record.Log
	for _, r := range recs {
		if l, ok := r.(*record.Log); ok {
			logs = append(logs, l)
		}
	}
	return logs
}

func TestLogIsToldWhenItChangesAndLast(t *testing.T) {
	a := newTest(t)
	a.SeedDone(1)
	if got := logsIn(a.Flush(at(1))); len(got) != 0 {
		t.Errorf("a log that nobody measured: %+v", got)
	}
	before, _ := a.LayerTotals(1)
	log := record.LogTotals{Driver: "json-file", Path: "/l", Files: 1, Size: 300, Allocated: 4096, BaselineSize: 100, BaselineAllocated: 4096}
	a.Log(1, log)
	got := logsIn(a.Flush(at(2)))
	if len(got) != 1 || got[0].SizeGrowth != 200 || got[0].DiskGrowth != 0 || got[0].Storage.Class != record.ClassLog || got[0].Container != api {
		t.Fatalf("the first measurement: %+v", got)
	}
	a.Log(1, log)
	if got := logsIn(a.Flush(at(3))); len(got) != 0 {
		t.Errorf("nothing changed: %+v", got)
	}
	log.Files, log.Size, log.Allocated = 2, 50, 8192
	a.Log(1, log)
	if got := logsIn(a.Flush(at(4))); len(got) != 1 || got[0].SizeGrowth != -50 || got[0].DiskGrowth != 4096 || got[0].Files != 2 {
		t.Errorf("after a rotation: %+v", got)
	}
	if after, _ := a.LayerTotals(1); after != before {
		t.Errorf("the layer's totals changed: %+v, before %+v", after, before)
	}
	if got := logsIn(a.Final(at(5))); len(got) != 1 || got[0].Size != 50 {
		t.Errorf("the last one: %+v", got)
	}
	if s := a.Summary(at(6), record.EndedSignal).Containers[0]; s.Log == nil || s.Log.SizeGrowth != -50 {
		t.Errorf("summary: %+v", s)
	}
	// The log is gone with the container, but what is known of it stays.
	a.Removed(1, at(7))
	if s := a.Summary(at(8), record.EndedSignal).Containers[0]; !s.Removed || s.Log == nil || s.Log.Size != 50 {
		t.Errorf("summary after the removal: %+v", s)
	}
	a.Log(1, log) // of a layer that is gone: ignored
}
