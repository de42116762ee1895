//go:build linux

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/internal/record"
)

// logOnDisk adds up a log and what was rotated away of it.
func logOnDisk(t *testing.T, path string) (files, size, allocated int64) {
	t.Helper()
	names, err := filepath.Glob(path + "*")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		var st unix.Stat_t
		if err := unix.Stat(name, &st); err != nil {
			t.Fatal(err)
		}
		files, size, allocated = files+1, size+st.Size, allocated+st.Blocks*512
	}
	return files, size, allocated
}

// TestLogs: what a container writes to its standard output is reported as its log,
// with rotated files, and never as growth of its layer.
func TestLogs(t *testing.T) {
	for _, driver := range []struct {
		name   string
		config map[string]string
		files  int64
	}{
		{"json-file", nil, 1},
		{"json-file", map[string]string{"max-size": "20k", "max-file": "3"}, 3},
		{"local", map[string]string{"max-size": "20k", "max-file": "3", "compress": "true"}, 3},
	} {
		t.Run(fmt.Sprintf("%s-%d", driver.name, driver.files), func(t *testing.T) {
			b := newBoxWith(t, boxOptions{adjust: func(_, host map[string]any) {
				host["LogConfig"] = map[string]any{"Type": driver.name, "Config": driver.config}
			}})
			say := func(lines int) {
				b.tool(t, "/bin/busybox", "sh", "-c", fmt.Sprintf(
					"i=0; while [ $i -lt %d ]; do echo the quick brown fox jumps over the lazy dog again and again, $i; i=$((i+1)); done >/proc/1/fd/1", lines))
			}
			say(50)
			path := explain(t, b.name, "/proc/1/fd/1").Log.Path
			var before int64
			eventually(t, seenLimit, "Docker writes the log", func() error {
				if _, before, _ = logOnDisk(t, path); before == 0 {
					return os.ErrNotExist
				}
				return nil
			})
			s := watch(t, b.name)
			b.run(t, "writer", fields("write path=/var/log/mine size=3000")...)
			say(2000)
			var last record.Log
			s.until(seenLimit, "the log's growth", func(v *view) error {
				if len(v.logs) == 0 {
					return os.ErrNotExist
				}
				// All of it: the last line is in the file that is being written.
				text, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				if !bytes.Contains(text, []byte("again, 1999")) {
					return errors.New("Docker has not written the last line")
				}
				last = v.logs[len(v.logs)-1]
				files, size, allocated := logOnDisk(t, path)
				if last.Files != files || last.Size != size || last.Allocated != allocated || files != driver.files || last.SizeGrowth == 0 {
					return fmt.Errorf("the stream says %+v, on the disk are %d files of %d, %d", last.LogTotals, files, size, allocated)
				}
				return nil
			})
			if last.Path != path || last.Driver != driver.name || last.SizeGrowth != last.Size-last.BaselineSize || last.Storage.Class != record.ClassLog {
				t.Errorf("%+v", last)
			}
			// Docker may still be compressing what it has rotated.
			eventually(t, seenLimit, "explain says what is on the disk", func() error {
				e := explain(t, b.name, "/proc/self/fd/1")
				_, size, _ := logOnDisk(t, path)
				if e.Storage.Class != record.ClassLog || e.HostPath != path || e.Log == nil || e.Log.Size != size || e.Fate["rm"].Outcome != "lost" {
					return fmt.Errorf("%+v, %+v; on the disk are %d", e, e.Log, size)
				}
				return nil
			})
			s.quiet(b)
			if sum := s.sum(b.of); sum.size != 3000 || sum.records == 0 {
				t.Errorf("the layer grew by %d, want 3000:\n%s", sum.size, s.linesOf(b.of))
			}
			if c := s.summary.Containers[0]; c.Log == nil || c.Log.BaselineSize != last.BaselineSize || c.Log.SizeGrowth != c.Log.Size-last.BaselineSize {
				t.Errorf("the summary's log: %+v", c.Log)
			} else if _, size, _ := logOnDisk(t, path); driver.config["compress"] == "" && c.Log.Size != size {
				t.Errorf("the summary's log: %+v; on the disk are %d", c.Log, size)
			}
			// Stopped, it is still there.
			env.docker.must(t, "POST", "/containers/"+b.id+"/stop?t=1", nil, nil)
			if e := explain(t, b.name, "/dev/stdout"); e.Storage.Class != record.ClassLog || e.Log == nil || e.Log.Path != path {
				t.Errorf("stopped: %+v", e)
			}
		})
	}
}
