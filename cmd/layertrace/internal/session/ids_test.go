package session

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/layertrace/layertrace/cmd/layertrace/internal/sessiontest"
	"github.com/layertrace/layertrace/internal/record"
	"github.com/layertrace/layertrace/resolver"
	"github.com/layertrace/layertrace/tracer"
	"github.com/layertrace/layertrace/tracer/event"
)

func TestLayerIDs(t *testing.T) {
	ids := layerIDs{last: tracer.MaxLayers - 2}
	take := func(id event.LayerID, wait bool) {
		t.Helper()
		if gotID, gotWait := ids.take(); gotID != id || gotWait != wait {
			t.Errorf("take: %d, %v, want %d, %v", gotID, gotWait, id, wait)
		}
	}
	take(tracer.MaxLayers-1, false)
	ids.free(7)
	take(tracer.MaxLayers, false) // a new one although one is free
	take(0, true)
	ids.collected()
	ids.free(8)
	take(0, true)
	ids.collected()
	take(7, false)
	take(0, true)
	ids.collected()
	take(8, false)
	take(0, false)
}

// More containers come and go than there are ids.
func TestIDsAreUsedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := run(t, all)
		w.session.ids.last = tracer.MaxLayers - 2
		stays := sessiontest.NewContainer(t, "stays", map[string]int{"a": 10})
		w.containers.Send(resolver.Found, stays)
		const more = 5
		for i := range more {
			c := sessiontest.NewContainer(t, "job", map[string]int{"a": 100})
			c.ID = sessiontest.ID(string(rune('a' + i)))
			w.containers.Send(resolver.Found, c)
			w.sleep(0)
			w.write(c, "a", 300)
			w.write(stays, "a", 10+i)
			w.containers.Send(resolver.Removed, c)
			if i%2 == 0 {
				w.sleep(3 * time.Second)
			}
		}
		w.finish()
		if n := len(of[*record.Summary](w.out)[0].Containers); n != more+1 {
			t.Errorf("%d containers in the summary", n)
		}
		for _, c := range of[*record.Summary](w.out)[0].Containers {
			want := int64(200)
			if c.Container.Name == "stays" {
				want = more - 1
			}
			if c.SizeGrowth != want || c.UnattributedSize != 0 {
				t.Errorf("%s grew by %d, of that unattributed %d, want %d", c.Container.Name, c.SizeGrowth, c.UnattributedSize, want)
			}
		}
	})
}

func TestMoreLayersThanIDs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := run(t, all)
		w.session.ids.last = tracer.MaxLayers - 1
		for _, name := range []string{"first", "second"} {
			w.containers.Send(resolver.Found, sessiontest.NewContainer(t, name, nil))
			w.sleep(0)
		}
		if n := w.kernel.Layers(); n != 1 {
			t.Errorf("%d layers", n)
		}
		w.finish()
	})
}
