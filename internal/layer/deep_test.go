package layer

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// deep makes a chain of directories that no path can name, with a file in each.
func deep(t *tree, levels int, name string) {
	t.Helper()
	fd, err := unix.Open(t.root, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	t.must(err)
	for i := range levels {
		file, err := unix.Openat(fd, "z", unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
		t.must(err)
		_, err = unix.Write(file, []byte(strconv.Itoa(i%10)))
		t.must(err)
		unix.Close(file)
		t.must(unix.Mkdirat(fd, name, 0o755))
		next, err := unix.Openat(fd, name, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		t.must(err)
		unix.Close(fd)
		fd = next
	}
	unix.Close(fd)
}

func TestDeep(t *testing.T) {
	for _, tc := range []struct {
		levels int
		name   string
	}{
		{200, strings.Repeat("d", 19)},
		{maxOpen, "a"}, {maxOpen + 1, "a"}, {maxOpen + 2, "a"},
		{3 * maxOpen, strings.Repeat("e", 255)},
		{2500, "m"},
	} {
		t.Run(fmt.Sprintf("%dx%d", tc.levels, len(tc.name)), func(t *testing.T) {
			tr := newTree(t)
			deep(tr, tc.levels, tc.name)
			want := Totals{Size: int64(tc.levels), Files: int64(tc.levels), Dirs: int64(tc.levels) + 1}
			got := measure(t, tr.root)
			want.Allocated = got.Allocated
			if got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
			open := countOpen(t)
			most := 0
			r := recorder{visit: func(*Entry) error { most = max(most, countOpen(t)-open); return nil }}
			if tc.levels <= 400 {
				tr.must(Walk(t.Context(), tr.root, &r))
				if most > maxOpen+1 {
					t.Errorf("%d descriptors at once, want at most %d", most, maxOpen)
				}
				if now := countOpen(t); now != open {
					t.Errorf("%d descriptors open after the walk, %d before", now, open)
				}
			}
		})
	}
}

func countOpen(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// TestDeepMoved renames a directory whose parent's descriptor was given up.
func TestDeepMoved(t *testing.T) {
	tr := newTree(t)
	deep(tr, maxOpen+20, "d")
	moved := false
	r := recorder{visit: func(e *Entry) error {
		if e.Name == "z" && !moved {
			moved = true // at the bottom: files sort behind directories
			tr.must(os.Rename(tr.path("d/d/d/d"), tr.path("elsewhere")))
		}
		return nil
	}}
	tr.must(Walk(t.Context(), tr.root, &r))
	if r.Files != maxOpen+20 {
		t.Errorf("%d files, want %d", r.Files, maxOpen+20)
	}
}
