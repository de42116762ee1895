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
