package tracer

import (
	"testing"
	"time"
)

// TestNobodyCollects: while nobody collects the reader takes no more than it may,
// the rest waits in the ring, and the next Collect brings all of it.
func TestNobodyCollects(t *testing.T) {
	o := newOverlay(t, nil)
	const most, files = 10, 500
	o.tracer.mu.Lock()
	o.tracer.maxNames = most
	o.tracer.mu.Unlock()
	// Enough to wake the reader, which sleeps until a quarter of the ring is full.
	o.tracer.arm()
	o.sh("for i in $(seq 500); do echo x >$i; done")
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		o.tracer.arm()
		o.sh("echo x >>1")
		o.tracer.mu.Lock()
		n := len(o.tracer.pending.batch.Files)
		o.tracer.mu.Unlock()
		if n > most {
			t.Fatalf("%d names were taken, more than %d", n, most)
		}
		if n == most {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d names were taken in ten seconds", n)
		}
	}
	o.check("after a stall")
	if len(o.files) < files {
		t.Errorf("%d of %d names", len(o.files), files)
	}
}
