package session

import (
	"strings"
	"testing"
	"testing/synctest"

	"github.com/layertrace/layertrace/cmd/layertrace/internal/sessiontest"
	"github.com/layertrace/layertrace/internal/record"
	"github.com/layertrace/layertrace/resolver"
)

// TestPlainLayerInUse: a layer without an overlay is in use while its container runs,
// and what is deleted in it afterwards is its removal.
func TestPlainLayerInUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sessiontest.NewContainer(t, "api", map[string]int{"a": 10})
		c.Plain, c.OverlayDevice = true, 0
		w := run(t, func(cfg *Config, _ *world) { cfg.Keep = true }, c)
		after := func(kind resolver.ChangeKind, pid uint32, want bool) {
			c.InitPID = pid
			w.containers.Send(kind, c)
			w.sleep(0)
			if w.kernel.Mounted() != want {
				t.Errorf("after %s the layer is in use: %v", kind, !want)
			}
		}
		if !w.kernel.Mounted() {
			t.Error("the layer of a container that runs is not in use")
		}
		after(resolver.Stopped, 0, false)
		after(resolver.Started, 4001, true)
		after(resolver.Stopped, 0, false)
		w.finish()
	})
}

// TestWritesByAnother: where one process writes for all of a container, that is said.
func TestWritesByAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sessiontest.NewContainer(t, "api", map[string]int{"a": 10})
		c.Driver, c.Plain, c.OverlayDevice = "fuse-overlayfs", true, 0
		w := run(t, nil, c)
		about := of[*record.Session](w.out)[0]
		if about.Coverage != "partial" || len(about.Reasons) != 1 || !strings.Contains(about.Reasons[0], "fuse-overlayfs") {
			t.Errorf("coverage %s: %q", about.Coverage, about.Reasons)
		}
		w.write(c, "b", 100)
		w.finish()
		w.equalsDisk(c)
	})
}
