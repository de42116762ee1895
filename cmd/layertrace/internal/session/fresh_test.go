package session

import (
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/cmd/layertrace/internal/sessiontest"
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
