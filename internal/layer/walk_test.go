package layer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

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

// BenchmarkWalk reads a tree of 10,000 files, or as many as LAYERTRACE_BENCH_FILES
// says. Beside the time that it took, which depends on what else the machine does,
// it tells the processor time.
func BenchmarkWalk(b *testing.B) {
	files := 10_000
	if more := os.Getenv("LAYERTRACE_BENCH_FILES"); more != "" {
		var err error
		if files, err = strconv.Atoi(more); err != nil {
			b.Fatal(err)
		}
	}
	tr := newTree(b)
	for i := range files {
		if i%100 == 0 {
			tr.mkdir(fmt.Sprint(i / 100))
		}
		tr.write(fmt.Sprintf("%d/%d", i/100, i), 1)
	}
	for name, walk := range map[string]func() error{
		"measure": func() error { _, err := Measure(b.Context(), tr.root); return err },
		"walk":    func() error { return Walk(b.Context(), tr.root, unseeing{}) },
		"enter":   func() error { return Walk(b.Context(), tr.root, entering{}) },
		"shared": func() error {
			return WalkShared(b.Context(), tr.root, runtime.GOMAXPROCS(0), func() Visitor { return entering{} })
		},
	} {
		b.Run(name, func(b *testing.B) {
			before := processorTime(b)
			b.ReportAllocs()
			for b.Loop() {
				if err := walk(); err != nil {
					b.Fatal(err)
				}
			}
			entries := float64(b.N) * float64(files)
			b.ReportMetric(float64(b.Elapsed())/entries, "ns/file")
			b.ReportMetric(float64(processorTime(b)-before)/entries, "cpu-ns/file")
		})
	}
}

type unseeing struct{}

func (unseeing) Visit(*Entry) error { return nil }

type entering struct{ unseeing }

func (entering) Enter(uint64, string, uint64, uint32) error { return nil }
func (entering) Nameless() error                            { return nil }

// processorTime is what the process has used so far.
func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var used unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
