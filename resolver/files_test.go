package resolver

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// soon fails the test if f does not return.
func soon(t *testing.T, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("it waits")
	}
}

// TestReadFile: whatever a user puts in the place of a file, reading it ends soon.
func TestReadFile(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	write(t, at("real/file"), "content")
	write(t, at("huge"), "")
	for _, err := range []error{
		unix.Mkfifo(at("fifo"), 0o666), os.Symlink("/dev/zero", at("zero")), os.Symlink(at("real"), at("moved")),
		os.Symlink(at("real/file"), at("link")), os.Truncate(at("huge"), fileMost+1),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		name, content string
		want          error
	}{
		{"real/file", "content", nil},
		{"moved/file", "content", nil},
		{"link", "", unix.ELOOP},
		{"zero", "", unix.ELOOP},
		{"fifo", "", errNotRegular},
		{"real", "", errNotRegular},
		{"huge", "", errTooLarge},
		{"none", "", os.ErrNotExist},
	} {
		soon(t, func() {
			if got, err := readFile(at(tc.name)); string(got) != tc.content || !errors.Is(err, tc.want) {
				t.Errorf("%s: %.20q, %v, want %q, %v", tc.name, got, err, tc.content, tc.want)
			}
		})
	}
	if got, err := readRegular("/dev/zero", 0); !errors.Is(err, errNotRegular) {
		t.Errorf("/dev/zero: %.20q, %v", got, err)
	}
}

// TestCached: a file is read when it has changed, and only then.
func TestCached(t *testing.T) {
	name := filepath.Join(t.TempDir(), "file")
	var c cached[string]
	reads := 0
	expect := func(when, content string, wantReads int, want error) {
		t.Helper()
		reads = 0
		for range 3 {
			got, err := c.parsed(name, func(data []byte) (string, error) {
				reads++
				if string(data) == "bad" {
					return "", unix.EBADMSG
				}
				return string(data), nil
			})
			if got != content || !errors.Is(err, want) {
				t.Errorf("%s: %q, %v, want %q, %v", when, got, err, content, want)
			}
		}
		if reads != wantReads {
			t.Errorf("%s: %d reads, want %d", when, reads, wantReads)
		}
	}
	expect("none", "", 0, os.ErrNotExist)
	write(t, name, "one")
	// As far as the file's times tell, these may be of one moment.
	for _, content := range []string{"one", "two"} {
		write(t, name, content)
		if got, err := c.parsed(name, func(data []byte) (string, error) { return string(data), nil }); got != content || err != nil {
			t.Errorf("just written: %q, %v, want %q", got, err, content)
		}
	}
	time.Sleep(2 * clockTick)
	_, _ = c.parsed(name, func(data []byte) (string, error) { return string(data), nil })
	expect("as it was", "two", 0, nil)
	write(t, name, "bad")
	time.Sleep(2 * clockTick)
	expect("broken", "two", 1, unix.EBADMSG)
	expect("still broken", "two", 0, unix.EBADMSG)
	write(t, name+".new", "six")
	time.Sleep(2 * clockTick)
	if err := os.Rename(name+".new", name); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * clockTick)
	expect("replaced", "six", 1, nil)
	if err := errors.Join(os.Remove(name), unix.Mkfifo(name, 0o666)); err != nil {
		t.Fatal(err)
	}
	expect("a fifo", "six", 0, errNotRegular)
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	expect("removed", "", 0, os.ErrNotExist)
}
