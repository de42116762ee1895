package session

import (
	"path/filepath"
	"testing"
	"testing/synctest"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/cmd/layertrace/internal/sessiontest"
)

// TestBaselineTakenDuringWriteBack: stat said too little of a file when its baseline
// was taken, and nothing happened to it since.
func TestBaselineTakenDuringWriteBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sessiontest.NewContainer(t, "api", map[string]int{"a": 1000, "b": 10})
		path := filepath.Join(c.UpperDir, "a")
		file := inodeOf(t, path)
		w := run(t, func(_ *Config, w *world) {
			w.kernel.OnSettle = func(inode uint64) {
				if inode == file {
					allocate(t, path)
				}
			}
		}, c)
		w.finish()
		w.equalsDisk(c)
		if l := w.lastLayer(); l.UnattributedDisk != 0 || l.DiskGrowth != 0 {
			t.Errorf("the baseline was not put right: %+v", l)
		}
	})
}

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
