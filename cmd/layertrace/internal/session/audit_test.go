package session

import (
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/layertrace/layertrace/cmd/layertrace/internal/sessiontest"
	"github.com/layertrace/layertrace/internal/record"
	"github.com/layertrace/layertrace/resolver"
)

func TestFinalAudit(t *testing.T) {
	tests := []struct {
		name   string
		missed func(*world, resolver.Container)
		paths  []string // of the unattributed records
		size   int64
	}{
		{name: "nothing missed", missed: func(*world, resolver.Container) {}},
		{
			name: "growth of a file",
			missed: func(w *world, c resolver.Container) {
				sessiontest.Write(w, filepath.Join(c.UpperDir, "a"), 5000)
			},
			paths: []string{"/a"}, size: 4000,
		},
		{
			name: "a new file",
			missed: func(w *world, c resolver.Container) {
				sessiontest.Write(w, filepath.Join(c.UpperDir, "dir/new"), 700)
			},
			paths: []string{"/dir/new"}, size: 700,
		},
		{
			name: "a deletion",
			missed: func(w *world, c resolver.Container) {
				remove(w.T, filepath.Join(c.UpperDir, "a"))
			},
			paths: []string{"/a"}, size: -1000,
		},
		{
			name: "what cancels out in the sums",
			missed: func(w *world, c resolver.Container) {
				sessiontest.Write(w, filepath.Join(c.UpperDir, "a"), 500)
				sessiontest.Write(w, filepath.Join(c.UpperDir, "x"), 500)
			},
			paths: []string{"/a", "/x"}, size: 0,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := sessiontest.NewContainer(t, "api", map[string]int{"a": 1000, "dir/b": 10})
				w := run(t, nil, c)
				w.write(c, "seen", 3000)
				test.missed(w, c)
				w.finish()
				w.equalsDisk(c)
				got := map[string]bool{}
				var size int64
				for _, g := range w.unattributed() {
					got[g.File.Path] = true
					size += g.SizeGrowth
				}
				if size != test.size || w.lastLayer().UnattributedSize != test.size {
					t.Errorf("unattributed: %d, layer %d, want %d", size, w.lastLayer().UnattributedSize, test.size)
				}
				for _, path := range test.paths {
					if !got[path] {
						t.Errorf("%s: no unattributed growth: %v", path, got)
					}
				}
			})
		})
	}
}

func TestAuditLeavesBusyFilesToTheLedger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sessiontest.NewContainer(t, "api", map[string]int{"busy": 10, "still": 10})
		var ending atomic.Bool
		size := 10
		w := run(t, func(_ *Config, w *world) {
			w.kernel.OnCollect = func() {
				if !ending.Load() {
					return
				}
				// A write between any two looks, of which one half is seen late.
				size += 100
				w.write(c, "busy", size)
			}
		}, c)
		sessiontest.Write(t, filepath.Join(c.UpperDir, "still"), 4010)
		ending.Store(true)
		w.finish()
		if l := w.lastLayer(); l.UnattributedSize != 4000 {
			t.Errorf("unattributed: %d, want 4000", l.UnattributedSize)
		}
		for _, g := range w.unattributed() {
			if g.File.Path == "/busy" {
				t.Errorf("a busy file was corrected: %+v", g)
			}
		}
	})
}

func TestAuditLeavesARemovalAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sessiontest.NewContainer(t, "job", map[string]int{"a": 1000, "b": 2000})
		var collects atomic.Int64
		collects.Store(-1000) // far from the stop
		w := run(t, func(cfg *Config, w *world) {
			cfg.Keep = true
			w.kernel.OnCollect = func() {
				// The first one after the stop, the second one after the walk.
				if collects.Add(1) == 2 {
					w.kernel.Unlink(w, sessiontest.Daemon(), filepath.Join(c.UpperDir, "a"))
				}
			}
		}, c)
		w.sleep(time.Second)
		w.kernel.MountAll(false)
		sessiontest.Write(t, filepath.Join(c.UpperDir, "b"), 2500) // makes the sums differ
		collects.Store(0)
		stopped := c
		stopped.InitPID = 0
		w.containers.Send(resolver.Stopped, stopped)
		w.sleep(0)
		if n := collects.Load(); n != 2 {
			t.Fatalf("%d collections at the stop", n)
		}
		remove(t, c.UpperDir)
		w.containers.Send(resolver.Removed, stopped)
		w.sleep(0)
		w.finish()
		events := of[*record.ContainerEvent](w.out)
		last := events[len(events)-1]
		if last.Event != record.ContainerRemoved || last.LostSize == nil || *last.LostSize < 2000 {
			t.Errorf("removal: %+v, lost %v", last, last.LostSize)
		}
	})
}

func TestStopIsAudited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sessiontest.NewContainer(t, "api", map[string]int{"a": 1000})
		w := run(t, nil, c)
		sessiontest.Write(t, filepath.Join(c.UpperDir, "a"), 1500)
		w.containers.Send(resolver.Stopped, c)
		w.sleep(confirmAfter)
		if l := w.lastLayer(); l.UnattributedSize != 500 || l.Size != 1500 {
			t.Errorf("layer record at the stop: %+v", l)
		}
		w.finish()
		w.equalsDisk(c)
	})
}

func TestSelfAuditReportsWhatPersists(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sessiontest.NewContainer(t, "api", map[string]int{"a": 1000})
		w := run(t, nil, c)
		w.write(c, "a", 2000)
		sessiontest.Write(t, filepath.Join(c.UpperDir, "a"), 2300) // not seen
		w.sleep(time.Second)
		if u := w.unattributed(); len(u) != 0 {
			t.Fatalf("reported at first sight: %+v", u)
		}
		w.sleep(suspectAge)
		u := w.unattributed()
		if len(u) != 1 || u[0].SizeGrowth != 300 || u[0].File.Path != "/a" {
			t.Fatalf("unattributed: %+v", u)
		}
		w.sleep(3 * time.Second)
		if n := len(w.unattributed()); n != 1 {
			t.Errorf("reported %d times", n)
		}
		// What comes next is booked alone.
		w.write(c, "a", 2310)
		w.sleep(time.Second)
		growths := of[*record.Growth](w.out)
		if last := growths[len(growths)-1]; last.SizeGrowth != 10 {
			t.Errorf("10 bytes appended later: %+v", last)
		}
		w.sleep(2 * suspectAge)
		if n := len(w.unattributed()); n != 1 {
			t.Errorf("reported %d times in the end", n)
		}
		w.finish()
		w.equalsDisk(c)
	})
}

func TestSelfAuditForgivesWhatTheHooksCatchUpWith(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sessiontest.NewContainer(t, "api", map[string]int{"a": 1000})
		w := run(t, nil, c)
		for i := range 5 {
			w.write(c, "a", 2000+1000*i)
			sessiontest.Write(t, filepath.Join(c.UpperDir, "a"), 2300+1000*i) // seen with the next write
			w.sleep(time.Second)
		}
		w.write(c, "a", 9000)
		w.sleep(2 * suspectAge)
		if u := w.unattributed(); len(u) != 0 {
			t.Errorf("unattributed: %+v", u)
		}
		w.finish()
		w.equalsDisk(c)
	})
}
