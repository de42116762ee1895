//go:build linux

package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestIdle: while a container does nothing, layertrace does next to nothing, and what
// the container does then is told as soon as ever.
func TestIdle(t *testing.T) {
	const interval, rest = 100 * time.Millisecond, 20 * time.Second
	b := newBox(t)
	s := launch(t, "--interval", interval.String(), "--all")
	s.ready()
	b.run(t, "first", fields("write path=/w/first size=5000")...)
	s.until(seenLimit, "the first write", func(v *view) error { return grown(v, b, "first", 5000) })
	// What has been written is looked at again for some seconds.
	eventually(t, 2*time.Minute, "layertrace rests", func() error {
		before := switches(t, s.cmd.Process.Pid)
		time.Sleep(2 * time.Second)
		if n := switches(t, s.cmd.Process.Pid) - before; n > 8 {
			return fmt.Errorf("%d wake-ups in two seconds", n)
		}
		return nil
	})
	before := switches(t, s.cmd.Process.Pid)
	time.Sleep(rest)
	n := switches(t, s.cmd.Process.Pid) - before
	t.Logf("%d wake-ups in %s, with an interval of %s", n, rest, interval)
	if n > int64(rest/interval)/4 {
		t.Errorf("%d wake-ups in %s in which nothing happened", n, rest)
	}
	b.run(t, "second", fields("write path=/w/second size=7000")...)
	s.until(seenLimit, "the write after the rest", func(v *view) error { return grown(v, b, "second", 7000) })
	s.stop()
}

// switches is how often the threads of a process have gone to sleep.
func switches(t *testing.T, pid int) (sum int64) {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(files) == 0 {
		t.Fatalf("no threads of %d: %v", pid, err)
	}
	for _, name := range files {
		status, err := os.ReadFile(name)
		if err != nil {
			continue // it has just ended
		}
		for line := range bytes.Lines(status) {
			if count, ok := strings.CutPrefix(string(line), "voluntary_ctxt_switches:"); ok {
				n, err := strconv.ParseInt(strings.TrimSpace(count), 10, 64)
				if err != nil {
					t.Fatal(err)
				}
				sum += n
			}
		}
	}
	return sum
}
