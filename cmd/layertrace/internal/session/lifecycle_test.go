package session

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/layertrace/layertrace/cmd/layertrace/internal/sessiontest"
	"github.com/layertrace/layertrace/internal/record"
	"github.com/layertrace/layertrace/resolver"
)

func all(cfg *Config, _ *world) {
	cfg.Select, cfg.Keep = resolver.Selection{All: true}, true
}

func TestLaterContainerIsWatched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := run(t, all)
		if got := w.out.types(); !slices.Equal(got, []string{"session"}) {
			t.Fatalf("without containers: %v", got)
		}
		c := sessiontest.NewContainer(t, "job", map[string]int{"etc/a": 10})
		w.containers.Send(resolver.Found, c)
		w.containers.Send(resolver.Started, c)
		w.sleep(0)
		w.write(c, "out", 4096)
		w.containers.Send(resolver.Stopped, c)
		w.containers.Send(resolver.Removed, c)
		w.sleep(0)
		got := w.out.types()[1:]
		want := []string{"found", "started", "growth", "layer", "stopped", "layer", "removed"}
		if !slices.Equal(got, want) {
			t.Errorf("records: %v, want %v", got, want)
		}
		events := of[*record.ContainerEvent](w.out)
		if lost := events[len(events)-1].LostSize; lost == nil || *lost != 4106 {
			t.Errorf("lost size: %v", lost)
		}
		if n := w.kernel.Layers(); n != 0 {
			t.Errorf("%d layers left in the kernel", n)
		}
		w.finish()
	})
}

func TestChangesWaitForTheBaseline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := run(t, all)
		for range scansAtOnce { // no slot is free
			w.session.scanSlot <- struct{}{}
		}
		c := sessiontest.NewContainer(t, "job", map[string]int{"a": 10})
		for _, kind := range []resolver.ChangeKind{resolver.Found, resolver.Started, resolver.Stopped, resolver.Removed} {
			w.containers.Send(kind, c)
		}
		w.sleep(3 * time.Second)
		if got := w.out.types()[1:]; !slices.Equal(got, []string{"found"}) {
			t.Errorf("while the baseline is taken: %v", got)
		}
		<-w.session.scanSlot
		w.sleep(0)
		got := w.out.types()[1:]
		if want := []string{"found", "started", "layer", "stopped", "layer", "removed"}; !slices.Equal(got, want) {
			t.Errorf("after it: %v, want %v", got, want)
		}
		w.finish()
	})
}

func TestEndWaitsForTheBaseline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sessiontest.NewContainer(t, "job", map[string]int{"a": 10})
		w := run(t, all)
		for range scansAtOnce {
			w.session.scanSlot <- struct{}{}
		}
		w.containers.Send(resolver.Found, c)
		w.sleep(0)
		w.stop <- record.EndedSignal
		w.sleep(time.Second)
		if got := w.out.types()[1:]; !slices.Equal(got, []string{"found"}) {
			t.Errorf("while the baseline is taken: %v", got)
		}
		<-w.session.scanSlot
		if err := w.end(); err != nil {
			t.Fatal(err)
		}
		w.wellFormed()
		w.equalsDisk(c)
	})
}

func TestRestartKeepsTheLayer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sessiontest.NewContainer(t, "api", map[string]int{"a": 10})
		w := run(t, nil, c)
		w.write(c, "b", 100)
		stopped := c
		stopped.InitPID, stopped.CgroupID, stopped.OverlayDevice = 0, 0, 0
		// With the containerd store the directory is not known while it is down.
		stopped.UpperDir, stopped.UpperDevice, stopped.UpperInode = "", 0, 0
		stopped.LayerErr = errors.New("not mounted")
		w.containers.Send(resolver.Stopped, stopped)
		w.sleep(0) // the stop's audit is over before there is more to see
		c.CgroupID = 8
		w.containers.Send(resolver.Started, c)
		w.write(c, "b", 200)
		w.sleep(time.Second)
		if l := w.lastLayer(); l.BaselineSize != 10 || l.SizeGrowth != 200 || l.UnattributedSize != 0 {
			t.Errorf("layer record: %+v", l)
		}
		if n := w.kernel.Layers(); n != 1 {
			t.Errorf("%d layers", n)
		}
		w.finish()
		w.equalsDisk(c)
	})
}

func TestLayerThatBecomesKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sessiontest.NewContainer(t, "api", map[string]int{"a": 10})
		created := c
		created.InitPID, created.LayerErr = 0, errors.New("not mounted")
		w := run(t, nil, created)
		if n := w.kernel.Layers(); n != 0 {
			t.Fatalf("%d layers before it is known", n)
		}
		w.containers.Send(resolver.LayerKnown, c)
		w.sleep(0)
		w.write(c, "b", 100)
		w.finish()
		w.equalsDisk(c)
	})
}

func TestRename(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sessiontest.NewContainer(t, "api", nil)
		w := run(t, nil, c)
		c.Name = "api-2"
		w.containers.Send(resolver.Renamed, c)
		w.sleep(0)
		w.write(c, "b", 100)
		w.finish()
		g := of[*record.Growth](w.out)
		if name := g[len(g)-1].Container.Name; name != "api-2" {
			t.Errorf("name in later records: %q", name)
		}
	})
}

func TestUnsupportedDriver(t *testing.T) {
	broken := sessiontest.NewContainer(t, "vfsbox", nil)
	broken.Driver, broken.LayerErr = "vfs", resolver.ErrNoUpperDir

	t.Run("named", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var driver *DriverError
			if err := run(t, nil, broken).end(); !errors.As(err, &driver) || driver.Driver != "vfs" {
				t.Errorf("Run: %v", err)
			}
		})
	})
	t.Run("all", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			good := sessiontest.NewContainer(t, "api", nil)
			w := run(t, all, broken, good)
			about := of[*record.Session](w.out)[0]
			if about.Coverage != "partial" || len(about.Reasons) != 1 {
				t.Errorf("coverage %s: %q", about.Coverage, about.Reasons)
			}
			w.finish()
			w.equalsDisk(good)
		})
	})
}

func TestVanishedLayerIsNoError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sessiontest.NewContainer(t, "api", map[string]int{"a": 10})
		w := run(t, func(cfg *Config, _ *world) { cfg.Keep = true }, c)
		remove(t, c.UpperDir) // by the runtime; its event is late
		w.containers.Send(resolver.Stopped, c)
		w.containers.Send(resolver.Removed, c)
		w.finish()
		if u := w.unattributed(); len(u) != 0 {
			t.Errorf("unattributed: %+v", u)
		}
	})
}

func TestCgroupsAreWatchedForCoveredPaths(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sessiontest.NewContainer(t, "api", nil)
		w := run(t, func(cfg *Config, _ *world) { cfg.IncludeCovered = true }, c)
		c.CgroupID = 8 // as after a restart
		w.containers.Send(resolver.Started, c)
		w.sleep(0)
		if w.kernel.Cgroup(7) == 0 || w.kernel.Cgroup(8) != w.kernel.Cgroup(7) {
			t.Errorf("layers of the cgroups: %d, %d", w.kernel.Cgroup(7), w.kernel.Cgroup(8))
		}
		w.finish()
	})
}
