package aggregate

import (
	"testing"

	"github.com/layertrace/layertrace/tracer/event"
)

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
