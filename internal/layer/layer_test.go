package layer

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// tree builds files below a temporary directory; every step fails the test.
type tree struct {
	testing.TB
	root string
}

func newTree(t testing.TB) *tree {
	t.Helper()
	return &tree{t, t.TempDir()}
}

func (t *tree) path(rel string) string { return t.root + "/" + rel }

func (t *tree) must(err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (t *tree) mkdir(rel string) { t.Helper(); t.must(os.MkdirAll(t.path(rel), 0o755)) }

func (t *tree) write(rel string, size int) {
	t.Helper()
	t.must(os.WriteFile(t.path(rel), bytes.Repeat([]byte{'x'}, size), 0o644))
}

// recorder notes what a Visitor is told.
type recorder struct {
	Tally
	calls   []string
	entries map[string]Entry
	enter   func(parent uint64, name string, inode uint64, mode uint32) error
	visit   func(*Entry) error
}

func (r *recorder) Enter(parent uint64, name string, inode uint64, mode uint32) error {
	r.calls = append(r.calls, "enter "+name)
	if r.enter != nil {
		return r.enter(parent, name, inode, mode)
	}
	return nil
}

func (r *recorder) Visit(e *Entry) error {
	r.calls = append(r.calls, "visit "+e.Path)
	if r.entries == nil {
		r.entries = make(map[string]Entry)
	}
	r.entries[e.Path] = *e
	r.Add(e)
	if r.visit != nil {
		return r.visit(e)
	}
	return nil
}

func du(t testing.TB, root string) int64 {
	t.Helper()
	out, err := exec.Command("du", "-s", "--block-size=1", "--", root).Output()
	if err != nil {
		t.Fatalf("du: %v", err)
	}
	field, _, _ := strings.Cut(string(out), "\t")
	n, err := strconv.ParseInt(field, 10, 64)
	if err != nil {
		t.Fatalf("du: %v", err)
	}
	return n
}

func measure(t testing.TB, root string) Totals {
	t.Helper()
	got, err := Measure(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	if want := du(t, root); got.Allocated != want {
		t.Errorf("allocated %d, du says %d", got.Allocated, want)
	}
	return got
}

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

func TestWalkOrder(t *testing.T) {
	tr := newTree(t)
	tr.mkdir("b/c")
	tr.write("b/c/2", 1)
	tr.write("b/c/1", 1)
	tr.write("a", 1)
	tr.write("b.txt", 1)
	want := []string{
		"enter ", "visit .",
		"enter a", "visit a",
		"enter b", "visit b",
		"enter c", "visit b/c",
		"enter 1", "visit b/c/1",
		"enter 2", "visit b/c/2",
		"enter b.txt", "visit b.txt",
	}
	for range 3 {
		var r recorder
		tr.must(Walk(t.Context(), tr.root, &r))
		if !slices.Equal(r.calls, want) {
			t.Fatalf("got %q\nwant %q", r.calls, want)
		}
	}
}

func TestWalkEntry(t *testing.T) {
	tr := newTree(t)
	tr.mkdir("d")
	tr.write("d/f", 5000)
	tr.must(os.Link(tr.path("d/f"), tr.path("g")))
	r := recorder{}
	r.enter = func(parent uint64, name string, inode uint64, mode uint32) error {
		rel := map[string]string{"": ".", "d": "d", "f": "d/f", "g": "g"}[name]
		var st, up unix.Stat_t
		tr.must(unix.Lstat(tr.path(rel), &st))
		if name != "" {
			tr.must(unix.Lstat(filepath.Dir(tr.path(rel)), &up))
		}
		if parent != up.Ino || inode != st.Ino || mode != 0 && mode != st.Mode&unix.S_IFMT {
			t.Errorf("enter(%d, %q, %d, %o), want %d, %d, %o", parent, name, inode, mode, up.Ino, st.Ino, st.Mode)
		}
		return nil
	}
	r.visit = func(e *Entry) error {
		st, err := e.Restat()
		tr.must(err)
		if e.Size != st.Size || e.Allocated != st.Blocks*512 || e.Inode != st.Ino || e.Dev != st.Dev ||
			e.Mode != st.Mode || e.Nlink != uint64(st.Nlink) || e.Dir() != (st.Mode&unix.S_IFMT == unix.S_IFDIR) {
			t.Errorf("%s: %+v, stat %+v", e.Path, e, st)
		}
		return nil
	}
	tr.must(Walk(t.Context(), tr.root, &r))
	if f := r.entries["d/f"]; f.Name != "f" || f.Parent != r.entries["d"].Inode || f.Nlink != 2 || f.Size != 5000 {
		t.Errorf("d/f: %+v", f)
	}
	if root := r.entries["."]; root.Name != "" || root.Parent != 0 || !root.Dir() {
		t.Errorf("root: %+v", root)
	}
}

func TestOverlayAttributes(t *testing.T) {
	tr := newTree(t)
	tr.mkdir("opaque")
	tr.mkdir("plain")
	tr.write("copied", 1)
	tr.write("added", 1)
	prefix := "trusted.overlay."
	if err := unix.Setxattr(tr.path("copied"), prefix+"origin", []byte{0}, 0); err != nil {
		prefix = "user.overlay."
		if err := unix.Setxattr(tr.path("copied"), prefix+"origin", []byte{0}, 0); errors.Is(err, unix.ENOTSUP) {
			t.Skip("no extended attributes here:", err)
		} else {
			tr.must(err)
		}
	}
	tr.must(unix.Setxattr(tr.path("opaque"), prefix+"opaque", []byte("y"), 0))
	tr.must(unix.Setxattr(tr.path("plain"), prefix+"opaque", []byte("x"), 0))
	tr.must(unix.Setxattr(tr.root, prefix+"origin", []byte{0}, 0))
	// A list longer than the first buffer; ext4 stops at a block.
	for i := range 20 {
		name := fmt.Sprintf("%s%s%02d", prefix, strings.Repeat("n", 80), i)
		if err := unix.Setxattr(tr.path("copied"), name, nil, 0); err != nil && !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
	}
	var r recorder
	tr.must(Walk(t.Context(), tr.root, &r))
	for path, want := range map[string][2]bool{
		".": {true, false}, "copied": {true, false}, "added": {}, "opaque": {false, true}, "plain": {},
	} {
		if e := r.entries[path]; e.CopiedUp != want[0] || e.Opaque != want[1] {
			t.Errorf("%s: copied up %v, opaque %v, want %v", path, e.CopiedUp, e.Opaque, want)
		}
	}
}

// TestOverlay reads what overlayfs itself makes of an upper directory.
func TestOverlay(t *testing.T) {
	tr := newTree(t)
	for _, d := range []string{"lower/dir", "lower/again", "upper", "work", "merged"} {
		tr.mkdir(d)
	}
	tr.write("lower/dir/chmod", 100_000)
	tr.write("lower/dir/remove", 10)
	tr.write("lower/again/old", 10)
	options := fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", tr.root)
	err := unix.Mount("overlay", tr.path("merged"), "overlay", 0, options)
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EINVAL) {
		t.Skip("no overlay can be mounted here:", err)
	}
	tr.must(err)
	t.Cleanup(func() { tr.must(unix.Unmount(tr.path("merged"), 0)) })
	tr.must(os.Chmod(tr.path("merged/dir/chmod"), 0o600))
	tr.must(os.Remove(tr.path("merged/dir/remove")))
	tr.must(os.RemoveAll(tr.path("merged/again")))
	tr.mkdir("merged/again")
	tr.write("merged/again/new", 5)

	var r recorder
	tr.must(Walk(t.Context(), tr.path("upper"), &r))
	for path, want := range map[string]struct{ whiteout, copiedUp, opaque bool }{
		"dir":        {copiedUp: true},
		"dir/chmod":  {copiedUp: true},
		"dir/remove": {whiteout: true},
		"again":      {opaque: true},
		"again/new":  {},
	} {
		e, ok := r.entries[path]
		if !ok || e.Whiteout != want.whiteout || e.CopiedUp != want.copiedUp || e.Opaque != want.opaque {
			t.Errorf("%s: %+v, want %+v", path, e, want)
		}
	}
	if got := measure(t, tr.path("upper")); got != r.Totals || got.Size != 100_005 || got.Whiteouts != 1 {
		t.Errorf("%+v, walk says %+v", got, r.Totals)
	}
}

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

func TestReplaced(t *testing.T) {
	t.Run("file before lstat", func(t *testing.T) {
		tr := newTree(t)
		tr.write("a", 1)
		tr.write("b", 20)
		var inodes []uint64
		var r recorder
		r.enter = func(_ uint64, name string, inode uint64, _ uint32) error {
			if name != "a" {
				return nil
			}
			inodes = append(inodes, inode)
			if len(inodes) == 1 {
				tr.must(os.Rename(tr.path("b"), tr.path("a")))
			}
			return nil
		}
		tr.must(Walk(t.Context(), tr.root, &r))
		if len(inodes) != 2 || r.entries["a"].Inode != inodes[1] || r.entries["a"].Size != 20 {
			t.Errorf("entered %v, visited %+v", inodes, r.entries["a"])
		}
		if _, ok := r.entries["b"]; ok {
			t.Error("b was visited though it was gone")
		}
	})
	t.Run("directory before it is opened", func(t *testing.T) {
		tr := newTree(t)
		tr.mkdir("a")
		tr.write("a/old", 1)
		tr.mkdir("z")
		tr.write("z/new", 30)
		var r recorder
		done := false
		r.visit = func(e *Entry) error {
			if e.Path == "a" && !done {
				done = true
				tr.must(unix.Renameat2(unix.AT_FDCWD, tr.path("a"), unix.AT_FDCWD, tr.path("z"), unix.RENAME_EXCHANGE))
			}
			return nil
		}
		tr.must(Walk(t.Context(), tr.root, &r))
		if r.entries["a/new"].Size != 30 || r.entries["z/old"].Size != 1 || r.Dirs != 3 {
			t.Errorf("calls %q, %+v", r.calls, r.Totals)
		}
	})
	t.Run("directory by a file", func(t *testing.T) {
		tr := newTree(t)
		tr.mkdir("a")
		var r recorder
		r.visit = func(e *Entry) error {
			if e.Path == "a" && e.Dir() {
				tr.must(os.Remove(tr.path("a")))
				tr.write("a", 9)
			}
			return nil
		}
		tr.must(Walk(t.Context(), tr.root, &r))
		if a := r.entries["a"]; a.Size != 9 || a.Dir() {
			t.Errorf("%+v", r.entries["a"])
		}
	})
	t.Run("for ever", func(t *testing.T) {
		tr := newTree(t)
		tr.write("a", 1)
		var r recorder
		r.enter = func(_ uint64, name string, _ uint64, _ uint32) error {
			if name == "a" {
				tr.write("tmp", 1)
				tr.must(os.Rename(tr.path("tmp"), tr.path("a")))
			}
			return nil
		}
		if err := Walk(t.Context(), tr.root, &r); err == nil || !strings.Contains(err.Error(), `"a"`) {
			t.Errorf("error %v", err)
		}
	})
}

func TestVanished(t *testing.T) {
	tr := newTree(t)
	for _, d := range []string{"a", "b", "c"} {
		tr.mkdir(d + "/sub")
		tr.write(d+"/sub/f", 1)
	}
	var r recorder
	r.enter = func(_ uint64, name string, _ uint64, _ uint32) error {
		if name == "b" {
			return os.RemoveAll(tr.path("b")) // between readdir and lstat
		}
		return nil
	}
	r.visit = func(e *Entry) error {
		if e.Path == "c/sub" { // between lstat and opening it
			tr.must(os.RemoveAll(tr.path("c")))
			if _, err := e.Restat(); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("restat of what is gone: %v", err)
			}
		}
		return nil
	}
	tr.must(Walk(t.Context(), tr.root, &r))
	if r.Dirs != 5 || r.Files != 1 {
		t.Errorf("%+v, calls %q", r.Totals, r.calls)
	}
}

func TestRestatOfAnother(t *testing.T) {
	tr := newTree(t)
	tr.write("a", 1)
	tr.write("b", 2)
	r := recorder{visit: func(e *Entry) error {
		if e.Path == "a" {
			tr.must(os.Rename(tr.path("b"), tr.path("a")))
			if _, err := e.Restat(); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("restat of another inode: %v", err)
			}
		}
		return nil
	}}
	tr.must(Walk(t.Context(), tr.root, &r))
}

func TestSkipDir(t *testing.T) {
	tr := newTree(t)
	tr.mkdir("a/b")
	tr.write("a/f", 1)
	tr.write("z", 1)
	r := recorder{visit: func(e *Entry) error {
		if e.Path == "a" {
			return SkipDir
		}
		return nil
	}}
	tr.must(Walk(t.Context(), tr.root, &r))
	if r.Dirs != 2 || r.Files != 1 {
		t.Errorf("%+v", r.Totals)
	}
	r = recorder{visit: func(*Entry) error { return SkipDir }}
	tr.must(Walk(t.Context(), tr.root, &r))
	if r.Dirs != 1 || len(r.entries) != 1 {
		t.Errorf("%+v", r.Totals)
	}
}

func TestErrors(t *testing.T) {
	tr := newTree(t)
	tr.mkdir("d")
	tr.write("d/f", 1)
	tr.must(os.Symlink("d", tr.path("link")))
	boom := errors.New("boom")
	for _, tc := range []struct {
		name string
		root string
		r    *recorder
		want error
	}{
		{"absent", "none", &recorder{}, fs.ErrNotExist},
		{"file", "d/f", &recorder{}, unix.ENOTDIR},
		{"symlink", "link", &recorder{}, unix.ENOTDIR},
		{"enter", "d", &recorder{enter: func(uint64, string, uint64, uint32) error { return boom }}, boom},
		{"visit", "d", &recorder{visit: func(e *Entry) error {
			if e.Name == "f" {
				return boom
			}
			return nil
		}}, boom},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if err := Walk(t.Context(), tr.path(tc.root), tc.r); !errors.Is(err, tc.want) {
				t.Errorf("error %v, want %v", err, tc.want)
			}
		})
	}
	t.Run("context", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		for i := range 2 * pollEvery {
			tr.write(fmt.Sprint(i), 0)
		}
		r := recorder{visit: func(*Entry) error { cancel(); return nil }}
		if err := Walk(ctx, tr.root, &r); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
		if _, err := Measure(ctx, tr.root); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
	})
}

// TestUnreadable runs the walk in a child without privileges, since root may
// read everything.
func TestUnreadable(t *testing.T) {
	if root := os.Getenv("LAYER_TEST_UNREADABLE"); root != "" {
		_, err := Measure(t.Context(), root)
		fmt.Println("error:", err)
		return
	}
	tr := newTree(t)
	tr.mkdir("d/secret")
	tr.must(os.Chmod(tr.path("d/secret"), 0o000))
	for dir := tr.root; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		tr.must(os.Chmod(dir, 0o755))
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestUnreadable$", "-test.v")
	cmd.Env = append(os.Environ(), "LAYER_TEST_UNREADABLE="+tr.root)
	cmd.Dir = "/"
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		self, err := os.Executable()
		tr.must(err)
		program := tr.path("program")
		data, err := os.ReadFile(self)
		tr.must(err)
		tr.must(os.WriteFile(program, data, 0o755))
		cmd.Path = program
	}
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte(`opening directory "d/secret": permission denied`)) {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestRaces walks while others create, rename and delete: no error may come of
// that, and once they are quiet the sum is right.
func TestRaces(t *testing.T) {
	tr := newTree(t)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				d := tr.path(fmt.Sprintf("d%d/%d/e", i, n%7))
				os.MkdirAll(d, 0o755)
				os.WriteFile(d+"/f", make([]byte, n%9000), 0o644)
				os.Link(d+"/f", d+"/g")
				os.Rename(d, tr.path(fmt.Sprintf("d%d/%d", i, (n+3)%7+100)))
				os.RemoveAll(tr.path(fmt.Sprintf("d%d/%d", i, (n+5)%7+100)))
			}
		})
	}
	for range 100 {
		if _, err := Measure(t.Context(), tr.root); err != nil {
			t.Error(err)
		}
		var r recorder
		if err := Walk(t.Context(), tr.root, &r); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	wg.Wait()
	measure(t, tr.root)
}

func FuzzDirectoryEntries(f *testing.F) {
	entry := func(inode uint64, kind byte, name string) []byte {
		b := make([]byte, (19+len(name)+1+7)/8*8)
		binary.NativeEndian.PutUint64(b, inode)
		binary.NativeEndian.PutUint16(b[16:], uint16(len(b)))
		b[18] = kind
		copy(b[19:], name)
		return b
	}
	f.Add(append(entry(1, unix.DT_DIR, "."), entry(7, unix.DT_REG, "file")...))
	f.Add(entry(9, unix.DT_UNKNOWN, strings.Repeat("x", 255)))
	f.Add([]byte{0, 1, 2})
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, e := range appendEntries(nil, b) {
			if e.name == "" || e.name == "." || e.name == ".." || e.inode == 0 || strings.Contains(e.name, "\x00") {
				t.Errorf("entry %+v", e)
			}
		}
	})
}

func BenchmarkWalk(b *testing.B) {
	tr := newTree(b)
	for i := range 100 {
		tr.mkdir(fmt.Sprint(i))
		for j := range 100 {
			tr.write(fmt.Sprintf("%d/%d", i, j), 1)
		}
	}
	b.Run("measure", func(b *testing.B) {
		for b.Loop() {
			if _, err := Measure(b.Context(), tr.root); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("walk", func(b *testing.B) {
		for b.Loop() {
			var r recorder
			if err := Walk(b.Context(), tr.root, &r); err != nil {
				b.Fatal(err)
			}
		}
	})
}
