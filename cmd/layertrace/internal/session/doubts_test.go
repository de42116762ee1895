package session

import (
	"errors"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/cmd/layertrace/internal/sessiontest"
	"github.com/layertrace/layertrace/internal/record"
	"github.com/layertrace/layertrace/resolver"
)

// TestAuditAndATornEnd: the end of a file is known one collection before its last
// counts. An audit that begins in between must not take its bytes off twice.
func TestAuditAndATornEnd(t *testing.T) {
	for at := range int64(4) {
		synctest.Test(t, func(t *testing.T) {
			c := sessiontest.NewContainer(t, "api", map[string]int{"tmp": 1000, "held": 10})
			var collects atomic.Int64
			collects.Store(-1000)
			w := run(t, func(_ *Config, w *world) {
				w.kernel.OnCollect = func() {
					if collects.Add(1) == at+1 {
						w.kernel.Unlink(w, sessiontest.Daemon(), filepath.Join(c.UpperDir, "tmp"))
						w.kernel.Torn = true
					}
				}
			}, c)
			sessiontest.Write(t, filepath.Join(c.UpperDir, "unseen"), 10) // there is something to audit
			collects.Store(0)
			w.finish()
			w.equalsDisk(c)
			if l := w.lastLayer(); l.UnattributedSize != 10 {
				t.Errorf("in collection %d: unattributed %d, want 10", at, l.UnattributedSize)
			}
		})
	}
}

// TestSelfAuditAfterAnOverflow: growth that was counted for the layer alone, and is
// found at a file, is not counted twice.
func TestSelfAuditAfterAnOverflow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sessiontest.NewContainer(t, "api", map[string]int{"f": 1000})
		w := run(t, nil, c)
		f := filepath.Join(c.UpperDir, "f")
		sessiontest.Write(t, f, 2000)
		w.kernel.Overflow(t, f)
		w.write(c, "f", 2010)
		w.sleep(suspectAge + 2*time.Second)
		if l := w.lastLayer(); l.Size != 2010 || l.UnattributedSize != 1000 {
			t.Errorf("layer record: %+v", l)
		}
		w.finish()
		w.equalsDisk(c)
	})
}

// TestAuditAfterAnOverflow: the same in an audit that can not settle all files.
func TestAuditAfterAnOverflow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sessiontest.NewContainer(t, "api", map[string]int{"f": 1000, "busy": 10})
		var ending atomic.Bool
		size := 10
		w := run(t, func(_ *Config, w *world) {
			w.kernel.OnCollect = func() {
				if ending.Load() {
					size += 100
					w.write(c, "busy", size)
				}
			}
		}, c)
		f := filepath.Join(c.UpperDir, "f")
		sessiontest.Write(t, f, 2000)
		w.kernel.Overflow(t, f)
		ending.Store(true)
		w.finish()
		w.equalsDisk(c)
	})
}

// TestAuditAndANumberUsedAgain: of two files that had one inode number after another,
// the names of both lost, the first does not get the bytes of the second.
func TestAuditAndANumberUsedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sessiontest.NewContainer(t, "api", nil)
		w := run(t, nil, c)
		w.write(c, "x", 0)
		w.sleep(time.Second)
		path := filepath.Join(c.UpperDir, "x")
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			t.Fatal(err)
		}
		old, _, err := w.kernel.Entry(st.Dev, st.Ino)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.kernel.Untrack(st.Dev, old.File); err != nil { // its end was lost
			t.Fatal(err)
		}
		w.kernel.Reuse(old.Layer, st.Ino)
		sessiontest.Write(t, path, 5000)
		w.kernel.Look(t, path)
		sessiontest.Write(t, filepath.Join(c.UpperDir, "y"), 10) // there is something to audit
		w.finish()
		w.equalsDisk(c)
	})
}

// TestMountedWhileAsked: a layer that is mounted while its mount is looked for is
// mounted.
func TestMountedWhileAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := run(t, all)
		c := sessiontest.NewContainer(t, "job", nil)
		c.OverlayDevice = 0
		w.containers.OnLayerMounted = func() bool {
			w.containers.OnLayerMounted = func() bool { return true }
			w.kernel.MountAll(true)
			return false
		}
		w.containers.Send(resolver.Found, c)
		w.sleep(0)
		if !w.kernel.Mounted() {
			t.Error("the layer is not mounted")
		}
		w.finish()
	})
}

// TestLateOrNot: what a container did that has ended before it was looked at is growth,
// too. But a layer that has its image in it did not grow by that.
func TestLateOrNot(t *testing.T) {
	tests := []struct {
		name                   string
		age                    time.Duration
		is                     func(*resolver.Container)
		kinds                  []resolver.ChangeKind
		baseline, unattributed int64
	}{
		{
			name: "over", age: 300 * time.Millisecond,
			is:           func(c *resolver.Container) { c.InitPID, c.OverlayDevice = 0, 0 },
			kinds:        []resolver.ChangeKind{resolver.Found, resolver.Started, resolver.Stopped},
			unattributed: 1000,
		},
		{
			name: "with its image", age: time.Millisecond,
			is:       func(c *resolver.Container) { c.Plain, c.Driver = true, "vfs" },
			kinds:    []resolver.ChangeKind{resolver.Found},
			baseline: 1000,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := run(t, all)
				w.sleep(time.Second)
				c := sessiontest.NewContainer(t, "late", map[string]int{"bin/sh": 1000})
				c.CreatedAt = time.Now().Add(-test.age)
				test.is(&c)
				for _, kind := range test.kinds {
					w.containers.Send(kind, c)
				}
				w.sleep(0)
				w.finish()
				if l := w.lastLayer(); l.BaselineSize != test.baseline || l.UnattributedSize != test.unattributed {
					t.Errorf("layer record: %+v", l)
				}
			})
		})
	}
}

// TestLayerKnownDuringAnAudit: a container is watched at once, too, if its layer is
// known only later.
func TestLayerKnownDuringAnAudit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sessiontest.NewContainer(t, "api", map[string]int{"a": 10})
		w := run(t, all, c)
		w.stopWithADifference(c)
		next := sessiontest.NewContainer(t, "next", nil)
		created := next
		created.LayerErr, created.InitPID = errors.New("not mounted"), 0
		w.containers.Send(resolver.Found, created)
		w.containers.Send(resolver.LayerKnown, next)
		w.containers.Send(resolver.Started, next)
		synctest.Wait()
		if n := w.kernel.Layers(); n != 2 {
			t.Errorf("%d layers are watched during the audit", n)
		}
		w.sleep(confirmAfter)
		w.finish()
		w.equalsDisk(next)
	})
}

// TestIDUsedAgainDuringAnAudit: what comes of an id waits for what came of it before.
func TestIDUsedAgainDuringAnAudit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sessiontest.NewContainer(t, "test", map[string]int{"a": 10})
		w := run(t, all, c)
		w.stopWithADifference(c)
		next := sessiontest.NewContainer(t, "test", nil)
		w.containers.Send(resolver.Removed, c)
		w.containers.Send(resolver.Found, next)
		w.containers.Send(resolver.Started, next)
		w.sleep(confirmAfter)
		w.write(next, "b", 500)
		w.stop <- record.EndedSignal
		if err := w.end(); err != nil {
			t.Fatal(err)
		}
		w.equalsDisk(next)
		events := of[*record.ContainerEvent](w.out)
		if last := events[len(events)-1]; last.Event != record.ContainerStarted {
			t.Errorf("the last event is %s", last.Event)
		}
		if n := w.lastLayer().UnattributedSize; n != 0 {
			t.Errorf("unattributed in the second one: %d", n)
		}
	})
}
