package session

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/layertrace/layertrace/cmd/layertrace/internal/sessiontest"
	"github.com/layertrace/layertrace/internal/record"
	"github.com/layertrace/layertrace/resolver"
)

func all(cfg *Config, _ *world) {
	cfg.Select, cfg.Keep = resolver.Selection{All: true}, true
}

// held is a session in which baselines are not taken before goOn was called.
func held(t *testing.T) (w *world, goOn func()) {
	hold := make(chan struct{})
	return run(t, func(cfg *Config, w *world) {
		all(cfg, w)
		w.kernel.OnTrack = func(uint64) bool { <-hold; return false }
	}), func() { close(hold) }
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
		w, goOn := held(t)
		c := sessiontest.NewContainer(t, "job", map[string]int{"a": 10})
		for _, kind := range []resolver.ChangeKind{resolver.Found, resolver.Started, resolver.Stopped, resolver.Removed} {
			w.containers.Send(kind, c)
		}
		w.sleep(3 * time.Second)
		if got := w.out.types()[1:]; !slices.Equal(got, []string{"found"}) {
			t.Errorf("while the baseline is taken: %v", got)
		}
		goOn()
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
		w, goOn := held(t)
		w.containers.Send(resolver.Found, c)
		w.sleep(0)
		w.stop <- record.EndedSignal
		w.sleep(time.Second)
		if got := w.out.types()[1:]; !slices.Equal(got, []string{"found"}) {
			t.Errorf("while the baseline is taken: %v", got)
		}
		goOn()
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
		w.containers.Send(resolver.Stopped, c)
		w.containers.Send(resolver.Removed, c)
		if err := w.end(); err != nil {
			t.Fatal(err)
		}
		g := of[*record.Growth](w.out)
		if name := g[len(g)-1].Container.Name; name != "api-2" {
			t.Errorf("name in later records: %q", name)
		}
		events := of[*record.ContainerEvent](w.out)
		for _, e := range events {
			if e.UpperDir != c.UpperDir || e.Driver != c.Driver {
				t.Errorf("%s: %+v", e.Event, e)
			}
		}
		if len(events) != 4 {
			t.Errorf("%d container records", len(events))
		}
	})
}

func TestUnsupportedDriver(t *testing.T) {
	broken := sessiontest.NewContainer(t, "zfsbox", nil)
	broken.Driver, broken.LayerErr = "zfs", resolver.ErrNoUpperDir

	t.Run("named", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var driver *DriverError
			if err := run(t, nil, broken).end(); !errors.As(err, &driver) || driver.Driver != "zfs" {
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

// TestSharedLayer: no byte is counted for two containers. One that has the layer of
// another is watched once that is gone.
func TestSharedLayer(t *testing.T) {
	twins := func(t *testing.T) (first, second resolver.Container) {
		first = sessiontest.NewContainer(t, "first", map[string]int{"a": 10})
		second = first
		second.ID, second.Name = sessiontest.ID("b"), "second"
		return first, second
	}
	t.Run("named", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			first, second := twins(t)
			err := run(t, nil, first, second).end()
			if want := "watching the layer of second: it is that of first, which is watched already"; err == nil || err.Error() != want {
				t.Errorf("Run: %v, want %s", err, want)
			}
		})
	})
	t.Run("all", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			first, second := twins(t)
			var log strings.Builder
			w := run(t, func(cfg *Config, w *world) {
				all(cfg, w)
				cfg.Log = zerolog.New(&log).Level(zerolog.WarnLevel)
			}, first, second)
			w.containers.Send(resolver.Started, second)
			w.sleep(0)
			if n := strings.Count(log.String(), "not watched"); n != 1 || w.kernel.Layers() != 1 {
				t.Errorf("%d warnings, %d layers:\n%s", n, w.kernel.Layers(), &log)
			}
			if about := of[*record.Session](w.out)[0]; about.Coverage != "partial" {
				t.Errorf("coverage is %s", about.Coverage)
			}
			w.write(first, "b", 100)
			w.sleep(time.Second)
			w.containers.Send(resolver.Stopped, first)
			w.containers.Send(resolver.Removed, first)
			w.sleep(0)
			w.write(second, "c", 1000)
			w.finish()
			w.equalsDisk(second)
			if l := w.lastLayer(); l.Container.Name != "second" || l.BaselineSize != 110 || l.SizeGrowth != 1000 {
				t.Errorf("layer record of the second: %+v", l)
			}
		})
	})
	t.Run("number of a directory that is gone", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			first, second := twins(t)
			w := run(t, all, first)
			second.UpperDir += "2"
			if err := os.Rename(first.UpperDir, second.UpperDir); err != nil {
				t.Fatal(err)
			}
			w.containers.Send(resolver.Found, second)
			w.sleep(0)
			if n := w.kernel.Layers(); n != 2 {
				t.Errorf("%d layers", n)
			}
			w.containers.Send(resolver.Removed, first)
			w.sleep(0)
			w.finish()
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
		if w.kernel.Cgroup(7) != 0 || w.kernel.Cgroup(8) == 0 {
			t.Errorf("layers of the cgroups: %d, %d", w.kernel.Cgroup(7), w.kernel.Cgroup(8))
		}
		w.containers.Send(resolver.Removed, c)
		w.sleep(0)
		if w.kernel.Cgroup(8) != 0 {
			t.Error("the cgroup of a removed container is watched")
		}
		if err := w.end(); err != nil {
			t.Fatal(err)
		}
	})
}

// Many layers take few readings of the kernel's counters.
func TestManyBaselines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const count = 100
		var list []resolver.Container
		for i := range count {
			list = append(list, sessiontest.NewContainer(t, fmt.Sprintf("c%02d", i), map[string]int{"a": 10}))
		}
		collects := 0
		w := run(t, func(cfg *Config, w *world) {
			all(cfg, w)
			w.kernel.OnCollect = func() {
				collects++
				time.Sleep(time.Millisecond) // baselines are taken meanwhile
			}
		}, list...)
		w.sleep(time.Second)
		if collects > 4 {
			t.Errorf("%d collections for %d baselines", collects, count)
		}
		w.finish()
		if n := len(of[*record.Layer](w.out)); n != count {
			t.Errorf("%d layer records", n)
		}
	})
}

// A container that had started before its layer was watched: what is there by then
// was written during the run.
func TestLateContainer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := run(t, all)
		w.sleep(time.Second)
		late := sessiontest.NewContainer(t, "late", map[string]int{"var/a": 1000})
		late.CreatedAt = time.Now().Add(-time.Millisecond)
		old := sessiontest.NewContainer(t, "old", map[string]int{"a": 500})
		old.CreatedAt = time.Now().Add(-time.Hour)
		w.containers.Send(resolver.Found, late)
		w.containers.Send(resolver.Found, old)
		w.sleep(0)
		w.write(late, "var/b", 100)
		w.write(late, "var/a", 1010)
		w.finish()
		for _, l := range of[*record.Layer](w.out) {
			if l.Container.Name == "old" && (l.BaselineSize != 500 || l.UnattributedSize != 0) {
				t.Errorf("old: %+v", l)
			}
			if l.Container.Name == "late" && (l.BaselineSize != 0 || l.UnattributedSize != 1000 || l.Size != 1110 || l.BaselineAllocated > 4096) {
				t.Errorf("late: %+v", l)
			}
		}
		for _, u := range w.unattributed() {
			if want := map[string]int64{"/var/a": 1000, "/var": 0}; u.SizeGrowth != want[u.File.Path] || u.Container.Name != "late" {
				t.Errorf("unattributed: %+v", u)
			}
		}
	})
}

// While a large layer is audited, other containers are watched from their start.
func TestFoundDuringAnAudit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sessiontest.NewContainer(t, "api", map[string]int{"a": 10})
		w := run(t, all, c)
		w.stopWithADifference(c)
		next := sessiontest.NewContainer(t, "next", nil)
		w.containers.Send(resolver.Found, next)
		w.containers.Send(resolver.Renamed, next)
		synctest.Wait()
		if n := w.kernel.Layers(); n != 2 {
			t.Fatalf("%d layers are watched during the audit", n)
		}
		w.sleep(confirmAfter)
		want := []string{"session", "found", "found", "layer", "growth", "layer", "stopped"}
		if got := w.out.types(); !slices.Equal(got[:min(len(got), len(want))], want) {
			t.Errorf("records: %v, want %v", got, want)
		}
		w.write(next, "b", 100)
		w.finish()
		w.equalsDisk(next)
	})
}

// While a layer is audited, what others write is told at the end of the interval.
func TestIntervalEndsDuringAnAudit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, other := sessiontest.NewContainer(t, "job", map[string]int{"a": 10}), sessiontest.NewContainer(t, "api", nil)
		w := run(t, func(cfg *Config, _ *world) { cfg.Interval = confirmAfter / 10 }, c, other)
		w.sleep(3 * confirmAfter) // nothing is written: the session rests
		w.stopWithADifference(c)
		w.write(other, "b", 100)
		w.sleep(2 * w.session.cfg.Interval)
		growths := of[*record.Growth](w.out)
		if len(growths) != 1 || growths[0].Container.Name != "api" || slices.Contains(w.out.types(), "stopped") {
			t.Errorf("records during the audit: %v", w.out.types())
		}
		w.sleep(confirmAfter)
		if u := w.unattributed(); len(u) != 1 || u[0].SizeGrowth != 100 || !slices.Contains(w.out.types(), "stopped") {
			t.Errorf("records after the audit: %v, unattributed %v", w.out.types(), u)
		}
		w.write(other, "b", 200)
		w.sleep(2 * w.session.cfg.Interval)
		if growths := of[*record.Growth](w.out); growths[len(growths)-1].File.Size != 200 {
			t.Errorf("an interval after the audit: %v", w.out.types())
		}
		w.finish()
		w.equalsDisk(c)
	})
}

// A layer that is deleted while it is audited is noticed, though the news comes with
// the end of an interval.
func TestRemovalDuringAnAudit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sessiontest.NewContainer(t, "job", map[string]int{"a": 1000, "b": 2000})
		w := run(t, func(cfg *Config, _ *world) { cfg.Interval = confirmAfter / 10 }, c)
		w.kernel.MountAll(false)
		w.stopWithADifference(c)
		w.kernel.Unlink(w, sessiontest.Daemon(), filepath.Join(c.UpperDir, "a"))
		w.sleep(confirmAfter)
		if u := w.unattributed(); len(u) != 0 || !slices.Contains(w.out.types(), "stopped") {
			t.Errorf("records: %v, unattributed %+v", w.out.types(), u)
		}
		w.finish()
	})
}

// Who ends the run in the midst of an audit does not wait for it, and nothing is lost.
func TestEndDuringAnAudit(t *testing.T) {
	for _, reason := range []string{record.EndedSignal, record.EndedDuration, record.EndedOutputClosed} {
		synctest.Test(t, func(t *testing.T) {
			c, other := sessiontest.NewContainer(t, "job", map[string]int{"a": 10}), sessiontest.NewContainer(t, "api", nil)
			w := run(t, func(cfg *Config, _ *world) {
				if reason == record.EndedDuration {
					cfg.Duration = confirmAfter * 3 / 4
				}
			}, c, other)
			w.stopWithADifference(c)
			w.containers.Send(resolver.Stopped, other)
			synctest.Wait()
			if reason != record.EndedDuration {
				w.stop <- reason
			}
			since := time.Now()
			if err := w.end(); err != nil {
				t.Fatalf("Run: %v", err)
			}
			if reason == record.EndedOutputClosed {
				if took := time.Since(since); took != 0 {
					t.Errorf("%s: the end took %s", reason, took)
				}
				return
			}
			w.wellFormed()
			w.equalsDisk(c)
			if u := w.unattributed(); len(u) != 1 || u[0].SizeGrowth != 100 {
				t.Errorf("%s: unattributed %+v", reason, u)
			}
			if summary := of[*record.Summary](w.out); len(summary) != 1 || summary[0].Ended != reason {
				t.Errorf("%s: %+v", reason, summary)
			}
			stops := slices.DeleteFunc(w.out.types(), func(kind string) bool { return kind != "stopped" })
			if len(stops) != 2 {
				t.Errorf("%s: records %v", reason, w.out.types())
			}
		})
	}
}

// What fails while a layer is audited ends the session.
func TestFailureDuringAnAudit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, other := sessiontest.NewContainer(t, "job", map[string]int{"a": 10}), sessiontest.NewContainer(t, "api", nil)
		w := run(t, nil, c, other)
		w.stopWithADifference(c)
		w.kernel.Fail(errors.New("broken"))
		if err := w.end(); err == nil || !strings.Contains(err.Error(), "broken") {
			t.Errorf("Run: %v", err)
		}
	})
}

// A container whose layer is gone when it is to be watched is no error, be it named
// or not; and its inode may be another one's by then.
func TestLayerGoneBeforeItIsWatched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := run(t, func(cfg *Config, _ *world) {
			cfg.Select.Refs, cfg.Keep = []string{"job", "next"}, true
		})
		c := sessiontest.NewContainer(t, "job", nil)
		remove(t, c.UpperDir)
		next := sessiontest.NewContainer(t, "next", nil)
		next.CreatedAt = time.Now()
		c.UpperInode = next.UpperInode
		unknown := c
		unknown.ID, unknown.Name = sessiontest.ID("f0"), "unknown"
		unknown.LayerErr = fmt.Errorf("looking: %w", os.ErrNotExist)
		for _, gone := range []resolver.Container{c, unknown} {
			w.containers.Send(resolver.Found, gone)
			w.containers.Send(resolver.Started, gone)
		}
		w.containers.Send(resolver.Found, next)
		w.sleep(0)
		w.write(next, "a", 100)
		for _, gone := range []resolver.Container{c, unknown} {
			w.containers.Send(resolver.Stopped, gone)
			w.containers.Send(resolver.Removed, gone)
		}
		w.sleep(0)
		w.write(next, "a", 200)
		w.finish()
		w.equalsDisk(next)
		if n := len(of[*record.Loss](w.out)); n != 2 {
			t.Errorf("%d losses, want one for each that was not seen", n)
		}
		if l := w.lastLayer(); l.Container.Name != "next" || l.UnattributedSize != 0 || l.SizeGrowth != 200 {
			t.Errorf("%+v", l)
		}
	})
}

// Of a container that was gone at once, the stream says at least that.
func TestUnseenContainer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := run(t, all)
		c := resolver.Container{ID: sessiontest.ID("a"), Name: "job", State: resolver.StateCreated, LayerErr: resolver.ErrVanished}
		for _, kind := range []resolver.ChangeKind{resolver.Found, resolver.Started, resolver.Stopped, resolver.Removed} {
			w.containers.Send(kind, c)
		}
		w.sleep(0)
		w.finish()
		if got := w.out.types(); !slices.Equal(got, []string{"session", "found", "started", "stopped", "removed", "loss", "summary"}) {
			t.Errorf("records: %v", got)
		}
		loss := of[*record.Loss](w.out)
		if len(loss) != 1 || loss[0].Reason != record.LossUnresolved || loss[0].Container.Name != "job" {
			t.Errorf("losses: %+v", loss)
		}
	})
}
