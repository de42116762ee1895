package aggregate

import (
	"fmt"
	"testing"

	"github.com/layertrace/layertrace/internal/record"
	"github.com/layertrace/layertrace/tracer/event"
)

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

// TestSummaryRawExecutables: programs are told apart by the bytes of their paths.
func TestSummaryRawExecutables(t *testing.T) {
	a := newTest(t)
	a.SeedDone(1)
	var b event.Batch
	for i, executable := range []string{"/a\xff", "/a\xfe"} {
		f, pid := fresh(100+uint64(i), 1), uint32(i+1)
		p := known(pid, "p")
		p.Executable = executable
		b.Processes = append(b.Processes, p)
		b.Files = append(b.Files, fileEvent(event.FileCreated, f, root, executable[1:], pid))
		b.Deltas = append(b.Deltas, delta(f, pid, int64(2-i), 0, event.CauseWrite))
	}
	a.Apply(&b)
	a.Final(at(1))
	top := a.Summary(at(2), record.EndedDuration).Containers[0].TopProcesses
	if len(top) != 2 || record.Raw(top[0].Executable, top[0].ExecutableB64) != "/a\xff" || record.Raw(top[1].Executable, top[1].ExecutableB64) != "/a\xfe" {
		t.Errorf("processes %+v", top)
	}
}
