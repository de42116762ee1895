package session

import (
	"testing"

	"github.com/layertrace/layertrace/cmd/layertrace/internal/sessiontest"
	"github.com/layertrace/layertrace/internal/record"
	"github.com/layertrace/layertrace/resolver"
	"github.com/layertrace/layertrace/tracer/event"
)

// remounting is a runtime whose container has other mounts each time that they are
// read.
type remounting struct {
	*sessiontest.Containers
	tables [][]resolver.Mount
	reads  int
}

func (r *remounting) RefreshMounts(c resolver.Container) resolver.Container {
	c.Mounts = r.tables[min(r.reads, len(r.tables)-1)]
	r.reads++
	return c
}

func TestMountsAreReadOnceAnInterval(t *testing.T) {
	volume := resolver.Mount{Class: record.ClassVolume, Destination: "/data", Name: "v", Device: 8}
	tmpfs := resolver.Mount{Class: record.ClassTmpfs, Destination: "/data/sub", Device: 50}
	bind := resolver.Mount{Class: record.ClassBind, Destination: "/data/sub", Source: "/srv", Device: 8}
	runtime := &remounting{tables: [][]resolver.Mount{{volume}, {volume, tmpfs}, {volume, bind}}}
	w := &watched{facts: resolver.Container{OverlayDevice: 99, Mounts: []resolver.Mount{volume}}}
	s := &Session{cfg: Config{Containers: runtime}, byLayer: map[event.LayerID]*watched{1: w}}
	for interval, asked := range [][]struct {
		device uint64
		path   string
		want   string
	}{
		{{8, "/data/f", "/data"}, {8, "/data/sub/f", "/data"}, {50, "/data/sub/f", ""}, {99, "/data/f", ""}},
		{{50, "/data/sub/f", "/data/sub"}, {8, "/data/f", "/data"}},
		// What is mounted there now has the volume's device; the tmpfs is gone, but
		// something of it is still to be told.
		{{8, "/data/sub/f", "/data/sub"}, {50, "/data/sub/f", "/data/sub"}},
		{{50, "/data/sub/f", ""}},
	} {
		w.remapped = false
		for _, a := range asked {
			if got := (names{s}).Classify(1, a.device, a.path); got.Destination != a.want {
				t.Errorf("interval %d: %s on device %d is on %+v, want %q", interval, a.path, a.device, got, a.want)
			}
		}
		if runtime.reads != interval+1 {
			t.Errorf("interval %d: the mounts were read %d times in all", interval, runtime.reads)
		}
	}
	if got := (names{s}).Classify(2, 8, "/data"); got.Class != record.ClassOther {
		t.Errorf("of no layer: %+v", got)
	}
}
