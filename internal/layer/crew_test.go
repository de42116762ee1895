package layer

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// together is a recorder for each thread that walks.
type together struct {
	mu    sync.Mutex
	parts []*recorder
	visit func(*Entry) error
}

func (g *together) recorder() Visitor {
	r := &recorder{visit: g.visit}
	g.parts = append(g.parts, r)
	return r
}

// all is what the recorders have seen, and fails if two have seen the same.
func (g *together) all(t *testing.T) map[string]Entry {
	t.Helper()
	all := map[string]Entry{}
	for _, r := range g.parts {
		for path, e := range r.entries {
			if _, twice := all[path]; twice {
				t.Errorf("%s was visited twice", path)
			}
			e.dirFD, e.held = 0, 0
			all[path] = e
		}
	}
	return all
}

// Each of these makes a tree of more than aloneFor entries.
var bigTrees = map[string]func(*tree){
	"flat": func(tr *tree) {
		for i := range 1000 {
			tr.write(fmt.Sprint(i), i%3)
		}
	},
	"wide": func(tr *tree) {
		for i := range 100 {
			tr.mkdir(fmt.Sprintf("%d/e", i))
			for k := range 8 {
				tr.write(fmt.Sprintf("%d/e/%d", i, k), k)
			}
		}
	},
	"deep": func(tr *tree) {
		for i := range 3 {
			tr.mkdir(fmt.Sprint(i))
			deep(&tree{tr.TB, tr.path(fmt.Sprint(i))}, 2*maxOpen, "d")
		}
	},
	"one long way": func(tr *tree) { deep(tr, 500, "m") },
}

func TestWalkShared(t *testing.T) {
	for name, build := range bigTrees {
		t.Run(name, func(t *testing.T) {
			tr := newTree(t)
			build(tr)
			var alone recorder
			tr.must(Walk(t.Context(), tr.root, &alone))
			for _, e := range alone.entries {
				e.dirFD, e.held = 0, 0
				alone.entries[e.Path] = e
			}
			open := countOpen(t)
			for range 3 {
				var g together
				tr.must(WalkShared(t.Context(), tr.root, 4, g.recorder))
				if got := g.all(t); !maps.Equal(got, alone.entries) {
					t.Fatalf("%d entries, want %d", len(got), len(alone.entries))
				}
				if now := countOpen(t); now != open {
					t.Fatalf("%d descriptors open after the walk, %d before", now, open)
				}
				if len(g.parts) != 4 {
					t.Errorf("%d threads, want 4", len(g.parts))
				}
			}
		})
	}
}

// Who has to wait for a directory's visitor gets its entries after it.
func TestSharedOrder(t *testing.T) {
	tr := newTree(t)
	bigTrees["wide"](tr)
	var g together
	seen := map[string]bool{}
	g.visit = func(e *Entry) error {
		g.mu.Lock()
		defer g.mu.Unlock()
		if at := strings.LastIndexByte(e.Path, '/'); at >= 0 && !seen[e.Path[:at]] {
			t.Errorf("%s was visited before its directory", e.Path)
		}
		seen[e.Path] = true
		return nil
	}
	tr.must(WalkShared(t.Context(), tr.root, 4, g.recorder))
}

// Many who have nothing to do must not pass the last entries round.
func TestSharedByMany(t *testing.T) {
	tr := newTree(t)
	bigTrees["one long way"](tr)
	var g together
	done := make(chan error, 1)
	go func() { done <- WalkShared(t.Context(), tr.root, 32, g.recorder) }()
	select {
	case err := <-done:
		tr.must(err)
	case <-time.After(time.Minute):
		t.Fatal("the walk does not end")
	}
	if n := len(g.all(t)); n != 2*500+1 {
		t.Errorf("%d entries, want %d", n, 2*500+1)
	}
}

// Few entries are not worth threads.
func TestSharedAlone(t *testing.T) {
	tr := newTree(t)
	tr.mkdir("a/b")
	var g together
	tr.must(WalkShared(t.Context(), tr.root, 4, g.recorder))
	if got := slices.Sorted(maps.Keys(g.all(t))); len(g.parts) != 1 || !slices.Equal(got, []string{".", "a", "a/b"}) {
		t.Errorf("%d threads, %q", len(g.parts), got)
	}
}

func TestSharedErrors(t *testing.T) {
	tr := newTree(t)
	bigTrees["wide"](tr)
	boom := errors.New("boom")
	for name, fails := range map[string]func(visited int) error{
		"first": func(int) error { return boom },
		"late": func(visited int) error {
			if visited > aloneFor+100 {
				return boom
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			open := countOpen(t)
			var g together
			visited := 0
			g.visit = func(*Entry) error {
				g.mu.Lock()
				defer g.mu.Unlock()
				visited++
				return fails(visited)
			}
			if err := WalkShared(t.Context(), tr.root, 4, g.recorder); !errors.Is(err, boom) {
				t.Errorf("error %v, want %v", err, boom)
			}
			if now := countOpen(t); now != open {
				t.Errorf("%d descriptors open after the walk, %d before", now, open)
			}
		})
	}
	t.Run("context", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var g together
		visited := 0
		g.visit = func(*Entry) error {
			g.mu.Lock()
			defer g.mu.Unlock()
			if visited++; visited == aloneFor+100 {
				cancel()
			}
			return nil
		}
		if err := WalkShared(ctx, tr.root, 4, g.recorder); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("absent", func(t *testing.T) {
		var g together
		if err := WalkShared(t.Context(), tr.path("none"), 4, g.recorder); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("error %v", err)
		}
	})
}
