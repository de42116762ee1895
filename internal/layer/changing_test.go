package layer

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

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

// What was entered is held, so that its number is nobody else's until it was looked at,
// and the visitor is told if it has no name left.
func TestNameless(t *testing.T) {
	for name, lose := range map[string]func(*tree){
		"file gone":       func(tr *tree) { tr.must(os.Remove(tr.path("a"))) },
		"file replaced":   func(tr *tree) { tr.must(os.Rename(tr.path("z"), tr.path("a"))) },
		"another follows": func(tr *tree) { tr.must(os.Remove(tr.path("a"))); tr.write("a", 5) },
	} {
		t.Run(name, func(t *testing.T) {
			tr := newTree(t)
			tr.write("a", 1)
			tr.write("z", 1)
			var r recorder
			var entered uint64
			r.enter = func(_ uint64, name string, inode uint64, _ uint32) error {
				if name == "a" && entered == 0 {
					entered = inode
					lose(tr)
					for i := range 100 {
						tr.write(fmt.Sprint("new", i), 1)
						var st unix.Stat_t
						tr.must(unix.Lstat(tr.path(fmt.Sprint("new", i)), &st))
						if st.Ino == inode {
							t.Errorf("inode %d is another file's", inode)
						}
					}
				}
				return nil
			}
			tr.must(Walk(t.Context(), tr.root, &r))
			if r.calls[2] != "enter a" || r.calls[3] != "nameless" {
				t.Errorf("calls %q", r.calls)
			}
		})
	}
}

// TestBeingRemoved: a name can lead to an inode that has none left, for as long as the
// kernel has not forgotten it. A mount on a name does so for longer.
func TestBeingRemoved(t *testing.T) {
	tr := newTree(t)
	tr.mkdir("tree")
	tr.write("tree/a", 1)
	tr.write("removed", 1)
	err := unix.Mount(tr.path("removed"), tr.path("tree/a"), "", unix.MS_BIND, "")
	if errors.Is(err, unix.EPERM) {
		t.Skip("nothing can be mounted here:", err)
	}
	tr.must(err)
	defer func() { tr.must(unix.Unmount(tr.path("tree/a"), 0)) }()
	tr.must(os.Remove(tr.path("removed")))
	var r recorder
	tr.must(Walk(t.Context(), tr.path("tree"), &r))
	if want := []string{"enter ", "visit .", "enter a", "nameless"}; !slices.Equal(r.calls, want) {
		t.Errorf("calls %q, want %q", r.calls, want)
	}
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
