package layer

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestMeasure(t *testing.T) {
	for _, tc := range []struct {
		name  string
		build func(*tree)
		want  Totals // Allocated is compared with du
	}{
		{"empty", func(*tree) {}, Totals{Dirs: 1}},
		{"files", func(t *tree) {
			t.write("a", 1000)
			t.mkdir("d/e")
			t.write("d/e/b", 8193)
			t.write("d/empty", 0)
		}, Totals{Size: 9193, Files: 3, Dirs: 3}},
		{"hard links count once", func(t *tree) {
			t.write("a", 1<<20)
			t.mkdir("d")
			t.must(os.Link(t.path("a"), t.path("b")))
			t.must(os.Link(t.path("a"), t.path("d/c")))
		}, Totals{Size: 1 << 20, Files: 1, Dirs: 2}},
		{"sparse", func(t *tree) {
			t.write("a", 1)
			t.must(os.Truncate(t.path("a"), 1<<30))
		}, Totals{Size: 1 << 30, Files: 1, Dirs: 1}},
		{"symlinks are not followed", func(t *tree) {
			t.must(os.Symlink(strings.Repeat("x", 39), t.path("short")))
			t.must(os.Symlink(strings.Repeat("y", 200), t.path("long")))
			t.must(os.Symlink("/", t.path("root")))
			t.must(os.Symlink(".", t.path("loop")))
		}, Totals{Size: 39 + 200 + 1 + 1, Files: 4, Dirs: 1}},
		{"fifo and socket", func(t *tree) {
			t.must(unix.Mkfifo(t.path("fifo"), 0o644))
			t.must(unix.Mknod(t.path("socket"), unix.S_IFSOCK|0o644, 0))
		}, Totals{Files: 2, Dirs: 1}},
		{"odd names", func(t *tree) {
			for _, name := range []string{"new\nline", "\xff\xfe", " ", "-rf", "tab\t", "ü", "a\\b", "..."} {
				t.write(name, 7)
			}
			t.mkdir("dir\xff\n")
			t.write("dir\xff\n/x", 1)
			t.write(strings.Repeat("n", 255), 3)
		}, Totals{Size: 8*7 + 1 + 3, Files: 10, Dirs: 2}},
		{"many entries", func(t *tree) {
			for i := range 3000 {
				t.write(fmt.Sprintf("file-with-a-longer-name-%04d", i), 1)
			}
		}, Totals{Size: 3000, Files: 3000, Dirs: 1}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tr := newTree(t)
			tc.build(tr)
			got := measure(t, tr.root)
			tc.want.Allocated = got.Allocated
			if got != tc.want {
				t.Errorf("got %+v, want %+v", got, tc.want)
			}
		})
	}
}

func TestWhiteouts(t *testing.T) {
	tr := newTree(t)
	tr.write("a", 5)
	err := unix.Mknod(tr.path("gone"), unix.S_IFCHR, 0)
	if errors.Is(err, unix.EPERM) {
		t.Skip("device 0:0 can not be made here:", err)
	}
	tr.must(err)
	tr.must(os.Link(tr.path("gone"), tr.path("gone too")))
	files := int64(1)
	err = unix.Mknod(tr.path("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3)))
	if err == nil {
		files++
	} else if !errors.Is(err, unix.EPERM) { // other devices than 0:0 take privileges
		t.Fatal(err)
	}

	got := measure(t, tr.root)
	if want := (Totals{Size: 5, Allocated: got.Allocated, Files: files, Dirs: 1, Whiteouts: 2}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	var r recorder
	tr.must(Walk(t.Context(), tr.root, &r))
	for path, want := range map[string]bool{"gone": true, "gone too": true, "null": false, "a": false} {
		if got := r.entries[path].Whiteout; got != want {
			t.Errorf("%s: whiteout %v, want %v", path, got, want)
		}
	}
}
