package layer

import (
	"bytes"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
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

func (r *recorder) Nameless() error {
	r.calls = append(r.calls, "nameless")
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
