package session

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/cmd/layertrace/internal/sessiontest"
	"github.com/layertrace/layertrace/internal/output"
	"github.com/layertrace/layertrace/internal/record"
	"github.com/layertrace/layertrace/resolver"
	"github.com/layertrace/layertrace/tracer/event"
)

func TestGrowthIsReportedByInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sessiontest.NewContainer(t, "api", map[string]int{"var/log/app.log": 1000, "etc/old": 10})
		w := run(t, nil, c)
		if got := w.out.types(); !slices.Equal(got, []string{"session", "found"}) {
			t.Fatalf("before the first interval: %v", got)
		}

		w.write(c, "var/log/app.log", 5096)
		w.sleep(time.Second)
		growths := of[*record.Growth](w.out)
		if len(growths) != 1 {
			t.Fatalf("got %d growth records, want 1", len(growths))
		}
		g := growths[0]
		if g.File.Path != "/var/log/app.log" || g.SizeGrowth != 4096 || g.File.Size != 5096 ||
			g.Process == nil || g.Process.Name != "node" || g.Process.ContainerID != c.ID {
			t.Errorf("growth record: %+v", g)
		}
		if l := w.lastLayer(); l.BaselineSize != 1010 || l.Size != 5106 || l.SizeGrowth != 4096 {
			t.Errorf("layer record: %+v", l)
		}

		before := len(w.out.types())
		w.sleep(5 * time.Second)
		if got := w.out.types()[before:]; len(got) != 0 {
			t.Errorf("idle intervals wrote %v", got)
		}
		w.finish()
		w.equalsDisk(c)
		if s := of[*record.Summary](w.out)[0]; s.Ended != record.EndedSignal {
			t.Errorf("ended by %q", s.Ended)
		}
	})
}

func TestSignalFlushesTheIntervalThatItFallsInto(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sessiontest.NewContainer(t, "api", nil)
		w := run(t, func(cfg *Config, _ *world) { cfg.Interval = time.Hour }, c)
		w.sleep(time.Second)
		w.write(c, "late", 4096)
		w.finish()
		w.equalsDisk(c)
		if l := w.lastLayer(); l.SizeGrowth != 4096 || l.UnattributedSize != 0 {
			t.Errorf("layer record: %+v", l)
		}
	})
}

func TestEnds(t *testing.T) {
	failure := errors.New("no more")
	tests := []struct {
		name   string
		adjust func(*Config, *world)
		act    func(*world, resolver.Container)
		ended  string // of the summary; empty for none
		err    error
	}{
		{name: "duration", adjust: func(c *Config, _ *world) { c.Duration = 3 * time.Second }, ended: record.EndedDuration},
		{name: "removed", act: func(w *world, c resolver.Container) { w.containers.Send(resolver.Removed, c) }, ended: record.EndedContainersGone},
		{
			name:   "removed but kept",
			adjust: func(c *Config, _ *world) { c.Keep, c.Duration = true, time.Hour },
			act:    func(w *world, c resolver.Container) { w.containers.Send(resolver.Removed, c) },
			ended:  record.EndedDuration,
		},
		{
			name:   "kernel fails",
			adjust: func(c *Config, _ *world) { c.Duration = time.Hour },
			act: func(w *world, c resolver.Container) {
				w.write(c, "seen", 1)
				w.kernel.Fail(failure)
			},
			ended: record.EndedError, err: failure,
		},
		{name: "output closed while idle", act: func(w *world, _ resolver.Container) { w.stop <- record.EndedOutputClosed }},
		{
			name: "output closed by a write",
			act: func(w *world, c resolver.Container) {
				w.out.fail(output.ErrClosed)
				w.write(c, "seen", 1)
			},
		},
		{
			name: "output full",
			act: func(w *world, c resolver.Container) {
				w.out.fail(syscall.ENOSPC)
				w.write(c, "seen", 1)
			},
			err: syscall.ENOSPC,
		},
		{name: "aborted", act: func(w *world, _ resolver.Container) { w.abort(failure) }, err: failure},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := sessiontest.NewContainer(t, "api", map[string]int{"a": 1})
				w := run(t, test.adjust, c)
				if test.act != nil {
					test.act(w, c)
				}
				if err := w.end(); !errors.Is(err, test.err) {
					t.Errorf("Run: %v, want %v", err, test.err)
				}
				ended := ""
				if s := of[*record.Summary](w.out); len(s) > 0 {
					ended = s[0].Ended
				}
				if ended != test.ended {
					t.Errorf("ended by %q, want %q", ended, test.ended)
				}
			})
		})
	}
}

func TestDurationCountsFromTheBeginning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sessiontest.NewContainer(t, "api", nil)
		start := time.Now()
		w := run(t, func(cfg *Config, _ *world) { cfg.Duration = 2500 * time.Millisecond }, c)
		if err := w.end(); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took != 2500*time.Millisecond {
			t.Errorf("took %v", took)
		}
		w.wellFormed()
	})
}

func TestLongIntervalsAreCollectedInBetween(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sessiontest.NewContainer(t, "api", nil)
		var collects atomic.Int64
		w := run(t, func(cfg *Config, w *world) {
			cfg.Interval = time.Minute
			w.kernel.OnCollect = func() { collects.Add(1) }
		}, c)
		began := collects.Load()
		for range 5 {
			w.write(c, "log", 1<<10)
			w.sleep(time.Second)
		}
		if n := collects.Load() - began; n < 5 {
			t.Errorf("collected %d times in 5 busy seconds", n)
		}
		if n := len(of[*record.Growth](w.out)); n != 0 {
			t.Errorf("%d growth records before the interval's end", n)
		}
		idle := collects.Load()
		w.sleep(30 * time.Second)
		if n := collects.Load() - idle; n > 4 {
			t.Errorf("collected %d times in 30 idle seconds", n)
		}
		w.finish()
	})
}

func TestIntervalsKeepTheirGrid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sessiontest.NewContainer(t, "api", nil)
		start := time.Now()
		w := run(t, func(cfg *Config, w *world) {
			w.kernel.OnCollect = func() { time.Sleep(300 * time.Millisecond) } // a slow machine
		}, c)
		for range 8 {
			w.write(c, "log", int(time.Since(start).Milliseconds()))
			w.sleep(500 * time.Millisecond)
		}
		w.finish()
		var last time.Duration
		for _, g := range of[*record.Growth](w.out) {
			last = g.Time.Sub(start)
		}
		began := of[*record.Session](w.out)[0].Time.Sub(start)
		// Each flush came 300 ms after its tick, and did not shift the next one.
		if last > 6*time.Second || began > 700*time.Millisecond {
			t.Errorf("began after %v, last growth after %v", began, last)
		}
	})
}

func TestLossIsWrittenBeforeTheIntervalEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sessiontest.NewContainer(t, "api", nil)
		w := run(t, func(cfg *Config, _ *world) { cfg.Interval = time.Hour }, c)
		w.kernel.Lose(event.Loss{Reason: event.LossRingFull, Events: 3})
		w.sleep(2 * time.Second)
		if losses := of[*record.Loss](w.out); len(losses) != 1 || losses[0].Events != 3 {
			t.Errorf("losses: %+v", losses)
		}
		w.finish()
	})
}

func TestSignalBeforeTheBeginning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sessiontest.NewContainer(t, "api", map[string]int{"a": 1})
		w := run(t, func(_ *Config, w *world) { w.containers.Silent = true }, c)
		if got := w.out.types(); len(got) != 0 {
			t.Fatalf("before all containers are known: %v", got)
		}
		w.finish()
	})
}

func TestBaselineSettlesBusyFiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sessiontest.NewContainer(t, "api", map[string]int{"a": 100, "b/c": 200})
		w := run(t, func(_ *Config, w *world) { w.kernel.Busy = 5 }, c)
		w.finish()
		w.equalsDisk(c)
		if l := w.lastLayer(); l.BaselineSize != 300 || l.SizeGrowth != 0 {
			t.Errorf("layer record: %+v", l)
		}
	})
}

func TestBaselineGivesUpOnAFileThatNeverRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sessiontest.NewContainer(t, "api", map[string]int{"a": 100})
		w := run(t, func(_ *Config, w *world) { w.kernel.Busy = settleTries + 1 }, c)
		if err := w.end(); err == nil {
			t.Error("Run: no error")
		}
	})
}

// A file that is moved from where the walk has yet to come to where it has been.
func TestBaselineFindsWhatWasMoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sessiontest.NewContainer(t, "api", map[string]int{"a/first": 1, "m": 10, "z/moved": 100})
		var marker unix.Stat_t
		if err := unix.Lstat(filepath.Join(c.UpperDir, "m"), &marker); err != nil {
			t.Fatal(err)
		}
		moved := false
		w := run(t, func(_ *Config, w *world) {
			w.kernel.OnTrack = func(inode uint64) bool {
				if moved || inode != marker.Ino {
					return false
				}
				moved = true
				if err := os.Rename(filepath.Join(c.UpperDir, "z/moved"), filepath.Join(c.UpperDir, "a/moved")); err != nil {
					t.Error(err)
				}
				return true
			}
		}, c)
		w.endsWithBaseline(c, 111, 3)
	})
}

// A directory that is moved to where the walk has been, after it was looked at and
// before it is read.
func TestBaselineFindsWhatIsInAMovedDirectory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sessiontest.NewContainer(t, "api", map[string]int{"a/first": 1, "m/inside": 10, "z": 100})
		from := filepath.Join(c.UpperDir, "m")
		directory := inodeOf(t, from)
		w := run(t, func(_ *Config, w *world) {
			w.kernel.OnSettle = func(inode uint64) {
				if inode != directory {
					return
				}
				if err := os.Rename(from, filepath.Join(c.UpperDir, "a/m")); err != nil {
					t.Error(err)
				}
			}
		}, c)
		w.endsWithBaseline(c, 111, 3)
	})
}

// A file that is written while it is settled, and moved to where the walk has been.
func TestBaselineFindsWhatWasMovedWhileItWasBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sessiontest.NewContainer(t, "api", map[string]int{"a/first": 1, "z": 100})
		from := filepath.Join(c.UpperDir, "z")
		file := inodeOf(t, from)
		moved := false
		w := run(t, func(_ *Config, w *world) {
			w.kernel.Busy = 3
			w.kernel.OnSettle = func(inode uint64) {
				if inode != file || moved {
					return
				}
				moved = true
				if err := os.Rename(from, filepath.Join(c.UpperDir, "a/z")); err != nil {
					t.Error(err)
				}
			}
		}, c)
		w.endsWithBaseline(c, 101, 2)
	})
}

// A layer that is large enough to be walked by several threads, with hard links
// between its directories and files that are asked for more than once.
func TestBaselineByManyThreads(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4))
	synctest.Test(t, func(t *testing.T) {
		const directories, each = 30, 40
		files := map[string]int{}
		for d := range directories {
			for i := range each {
				files[fmt.Sprintf("%d/%d/%d", d%7, d, i)] = d + i
			}
		}
		c := sessiontest.NewContainer(t, "api", files)
		var size int64
		for path, n := range files {
			size += int64(n)
			if n%3 == 0 {
				link := filepath.Join(c.UpperDir, fmt.Sprintf("%d/link%s", n%7, strings.ReplaceAll(path, "/", ".")))
				if err := os.Link(filepath.Join(c.UpperDir, path), link); err != nil {
					t.Fatal(err)
				}
			}
		}
		w := run(t, func(_ *Config, w *world) { w.kernel.Busy = 2 }, c)
		w.endsWithBaseline(c, size, directories*each)
	})
}

// A file that is replaced between the moment from which it is tracked and the look at
// it is none of the baseline. The kernel side tells of its end, and not of its name;
// and its number may be another file's at once.
func TestBaselineNamesWhatWasReplaced(t *testing.T) {
	for name, reused := range map[string]bool{"gone": false, "number in use": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { replaceWhileTracked(t, reused) })
		})
	}
}

func inodeOf(t *testing.T, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

func replaceWhileTracked(t *testing.T, reused bool) {
	c := sessiontest.NewContainer(t, "api", map[string]int{"a/new": 10, "b/old": 100})
	old, fresh := filepath.Join(c.UpperDir, "b/old"), filepath.Join(c.UpperDir, "a/new")
	victim := inodeOf(t, old)
	w := run(t, func(_ *Config, w *world) {
		w.kernel.OnTracked = func(inode uint64) {
			if inode == victim {
				w.kernel.Replace(t, sessiontest.Writer(), fresh, old)
				if reused {
					w.kernel.Reuse(1, inode)
				}
			}
		}
	}, c)
	w.endsWithBaseline(c, 10, 1)
	for _, loss := range of[*record.Loss](w.out) {
		t.Errorf("%+v", loss)
	}
	told := 0
	for _, g := range of[*record.Growth](w.out) {
		if g.File.Inode == victim && g.File.Path == "/b/old" && g.File.Deleted {
			told++
		}
	}
	if told != 1 {
		t.Errorf("%d records of the file that was replaced, want 1", told)
	}
}

// A file that has lost its name by the moment from which it is tracked, and which
// somebody has open, is none of the layer.
func TestBaselineLeavesOutTheNameless(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sessiontest.NewContainer(t, "api", map[string]int{"a": 10, "b": 100})
		path := filepath.Join(c.UpperDir, "b")
		victim := inodeOf(t, path)
		w := run(t, func(_ *Config, w *world) {
			w.kernel.OnTrack = func(inode uint64) bool {
				if inode == victim {
					if err := os.Remove(path); err != nil {
						t.Error(err)
					}
				}
				return false
			}
		}, c)
		w.endsWithBaseline(c, 10, 1)
		if len(w.kernel.Untracked) != 1 || w.kernel.Untracked[0].Inode != victim {
			t.Errorf("given up: %v, want inode %d", w.kernel.Untracked, victim)
		}
	})
}

func TestHardLinksCountOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sessiontest.NewContainer(t, "api", map[string]int{"a": 100})
		for _, name := range []string{"b", "c"} {
			if err := os.Link(filepath.Join(c.UpperDir, "a"), filepath.Join(c.UpperDir, name)); err != nil {
				t.Fatal(err)
			}
		}
		w := run(t, nil, c)
		w.finish()
		w.equalsDisk(c)
		if l := w.lastLayer(); l.BaselineSize != 100 || l.Files != 1 {
			t.Errorf("layer record: %+v", l)
		}
	})
}

func TestMalformedPattern(t *testing.T) {
	if _, err := New(Config{Clock: SystemClock{}, Include: []string{"[a"}}); err == nil {
		t.Error("New: no error")
	}
}

func TestNothingIsLeftRunning(t *testing.T) {
	// A goroutine that outlives Run would keep the bubble from ending.
	synctest.Test(t, func(t *testing.T) {
		c := sessiontest.NewContainer(t, "api", map[string]int{"a": 100})
		w := run(t, func(_ *Config, w *world) { w.containers.Silent = true }, c)
		w.abort(context.Canceled)
		if err := w.end(); !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
	})
}
