package session

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/cmd/layertrace/internal/sessiontest"
	"github.com/layertrace/layertrace/internal/aggregate"
	"github.com/layertrace/layertrace/tracer/event"
)

// TestBaselineTakenDuringWriteBack: stat said too little of a file when its baseline
// was taken, and nothing happened to it since.
func TestBaselineTakenDuringWriteBack(t *testing.T) {
	t.Run("seen at once", func(t *testing.T) { writeBack(t, 0) })
	t.Run("interrupted", func(t *testing.T) { writeBack(t, 100*time.Millisecond) })
}

// writeBack has stat say what it should that long after the baseline was taken.
func writeBack(t *testing.T, after time.Duration) {
	synctest.Test(t, func(t *testing.T) {
		c := sessiontest.NewContainer(t, "api", map[string]int{"a": 1000, "b": 10})
		path := filepath.Join(c.UpperDir, "a")
		file := inodeOf(t, path)
		w := run(t, func(cfg *Config, w *world) {
			cfg.Clock = presentClock(t, path)
			w.kernel.OnSettle = func(inode uint64) {
				if inode == file {
					time.AfterFunc(after, func() { allocate(t, path) })
				}
			}
		}, c)
		w.sleep(recheckFor + time.Second)
		w.finish()
		w.equalsDisk(c)
		if l := w.lastLayer(); l.UnattributedDisk != 0 || l.DiskGrowth != 0 {
			t.Errorf("the baseline was not put right: %+v", l)
		}
	})
}

// TestFresh: what a file has allocated is put right before its baseline is handed over,
// wherever it has been moved since it was looked at.
func TestFresh(t *testing.T) {
	for name, told := range map[string]bool{"told by the kernel": true, "guessed": false} {
		t.Run(name, func(t *testing.T) {
			c := sessiontest.NewContainer(t, "api", map[string]int{"a": 1000, "b": 10})
			kernel := sessiontest.NewKernel()
			root := inodeOf(t, c.UpperDir)
			if err := kernel.AddLayer(1, event.Upper{Inode: root}); err != nil {
				t.Fatal(err)
			}
			var seeds []aggregate.Baseline
			b := newBaseline(kernel, SystemClock{}, 1, upper{path: c.UpperDir, inode: root})
			b.hand = func(part scanned) error {
				seeds = append(seeds, part.seeds...)
				return nil
			}
			if err := b.walk(t.Context()); err != nil {
				t.Fatal(err)
			}
			from, to := filepath.Join(c.UpperDir, "a"), filepath.Join(c.UpperDir, "moved")
			file, looks := inodeOf(t, from), 0
			if err := os.Rename(from, to); err != nil {
				t.Fatal(err)
			}
			if told {
				kernel.OnLook = func(inode uint64) bool {
					if inode != file {
						return true
					}
					if looks++; looks == 3 {
						allocate(t, to)
					}
					return looks > 3
				}
			} else {
				allocate(t, to)
			}
			if err := b.settleFresh(t.Context()); err != nil {
				t.Fatal(err)
			}
			if told && looks != 4 {
				t.Errorf("%d looks, want as many as it took until the file was steady: 4", looks)
			}
			i := slices.IndexFunc(seeds, func(s aggregate.Baseline) bool { return s.File.Inode == file })
			if i < 0 {
				t.Fatalf("no baseline of the file: %+v", seeds)
			}
			var st unix.Stat_t
			if err := unix.Lstat(to, &st); err != nil {
				t.Fatal(err)
			}
			page, _, err := kernel.Entry(0, file)
			if want := st.Blocks * 512; seeds[i].Disk != want || page.Disk != want || err != nil {
				t.Errorf("the baseline is %d, the page says %d (%v), the disk %d", seeds[i].Disk, page.Disk, err, want)
			}
		})
	}
}

// presentClock is the bubble's clock, set to when the file was changed last.
func presentClock(t *testing.T, path string) Clock {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return shiftedClock{by: time.Until(time.Unix(st.Ctim.Unix()))}
}

type shiftedClock struct {
	SystemClock
	by time.Duration
}

func (c shiftedClock) Now() time.Time { return c.SystemClock.Now().Add(c.by) }

// allocate gives a file blocks and leaves its size.
func allocate(t *testing.T, path string) {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Error(err)
		return
	}
	defer unix.Close(fd)
	if err := unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE, 0, 1<<20); err != nil {
		t.Error(err)
	}
}
