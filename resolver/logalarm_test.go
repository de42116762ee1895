package resolver

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestLogAlarm: it rings for a log that is written, or rotated, once after being set.
func TestLogAlarm(t *testing.T) {
	a, err := NewLogAlarm()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	}()
	log := filepath.Join(t.TempDir(), "c-json.log")
	gone := filepath.Join(t.TempDir(), "gone", "c-json.log")
	write(t, log, "a line\n")
	grow := func() {
		t.Helper()
		f, err := os.OpenFile(log, os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString("another\n"); err != nil {
			t.Fatal(err)
		}
	}
	rings := func(when string) {
		t.Helper()
		select {
		case <-a.Rings():
		case <-time.After(10 * time.Second):
			t.Fatalf("it does not ring: %s", when)
		}
	}
	silent := func(when string) {
		t.Helper()
		select {
		case <-a.Rings():
			t.Fatalf("it rings: %s", when)
		default:
		}
	}
	set := func() {
		t.Helper()
		if err := a.Set([]string{gone, log}); err != nil {
			t.Fatal(err)
		}
	}
	grow()
	silent("before it was set")
	set()
	set()
	silent("nothing was written")
	grow()
	rings("a line was written")
	// What is read is in the order of what happened, so this is after the second line.
	grow()
	set()
	if err := os.Rename(log, log+".1"); err != nil {
		t.Fatal(err)
	}
	rings("the log was rotated")
	write(t, log, "")
	set()
	grow()
	rings("the next file was written")
}
