package resolver

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/rs/zerolog"
)

// newTestGroup is a group over engines that are called as given.
func newTestGroup(t *testing.T, engines map[string]Engine) *Group {
	t.Helper()
	var members []Member
	for _, name := range []string{"docker", "podman"} {
		r, err := New(Config{Log: zerolog.Nop(), Engine: engines[name]})
		if err != nil {
			t.Fatal(err)
		}
		members = append(members, Member{name, r})
	}
	g := NewGroup(members...)
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	return g
}

func TestGroupFind(t *testing.T) {
	docker := newFakeEngine(Details{ID: id("a"), Name: "web", Runtime: "docker"}, Details{ID: id("b"), Name: "both", Runtime: "docker"})
	podman := newFakeEngine(Details{ID: id("c"), Name: "db", Runtime: "podman"}, Details{ID: id("d"), Name: "both", Runtime: "podman"})
	g := newTestGroup(t, map[string]Engine{"docker": docker, "podman": podman})
	for ref, want := range map[string]string{"web": id("a"), "db": id("c"), id("d"): id("d"), "cccc": id("c")} {
		if c, err := g.Find(t.Context(), ref); err != nil || c.ID != want {
			t.Errorf("%s: %s, %v", ref, c.ID, err)
		}
	}
	var ambiguous *AmbiguousError
	if _, err := g.Find(t.Context(), "both"); !errors.As(err, &ambiguous) || len(ambiguous.Matches) != 2 {
		t.Errorf("both: %v", err)
	}
	var missing *NotFoundError
	if _, err := g.Find(t.Context(), "wbe"); !errors.As(err, &missing) || missing.Nearest != "web" {
		t.Errorf("wbe: %v", err)
	}
	if all, err := g.List(t.Context()); err != nil || len(all) != 4 {
		t.Errorf("%d containers, %v", len(all), err)
	}
	// What one runtime has can be found while another is away, and only that.
	docker.down = fmt.Errorf("test: %w", ErrUnreachable)
	if c, err := g.Find(t.Context(), "db"); err != nil || c.ID != id("c") {
		t.Errorf("db: %v", err)
	}
	var of *RuntimeError
	if _, err := g.Find(t.Context(), "web"); !errors.As(err, &of) || of.Runtime != "docker" || !errors.Is(err, ErrUnreachable) {
		t.Errorf("web: %v", err)
	}
}

func TestGroupWatch(t *testing.T) {
	docker := newFakeEngine(Details{ID: id("a"), Name: "web", Runtime: "docker"})
	podman := newFakeEngine(Details{ID: id("c"), Name: "db", Runtime: "podman"})
	g := newTestGroup(t, map[string]Engine{"docker": docker, "podman": podman})
	ctx, cancel := context.WithCancel(t.Context())
	changes, synced, done := make(chan Change, 16), make(chan struct{}), make(chan error)
	go func() {
		done <- g.Watch(ctx, Selection{All: true, Synced: func() { close(synced) }}, func(c Change) { changes <- c })
	}()
	wait := func(what string, c <-chan struct{}) {
		t.Helper()
		select {
		case <-c:
		case <-time.After(10 * time.Second):
			t.Fatal("not in time: " + what)
		}
	}
	wait("all is reported", synced)
	found := map[string]bool{(<-changes).Container.Name: true, (<-changes).Container.Name: true}
	if !found["web"] || !found["db"] {
		t.Errorf("found %v", found)
	}
	// A runtime that turns up is followed, too.
	late := newFakeEngine(Details{ID: id("f"), Name: "job", Runtime: "containerd"})
	r, err := New(Config{Log: zerolog.Nop(), Engine: late})
	if err != nil {
		t.Fatal(err)
	}
	g.Join(Member{"containerd", r})
	select {
	case c := <-changes:
		if c.Kind != Found || c.Container.Name != "job" {
			t.Errorf("change %s of %s", c.Kind, c.Container.Name)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the container of the runtime that joined is not reported")
	}
	if c, err := g.Find(t.Context(), "job"); err != nil || c.ID != id("f") {
		t.Errorf("job: %v", err)
	}
	// One runtime ends; the other is followed all the same.
	docker.hangUp()
	podman.set(func(all map[string]Details) { all[id("e")] = Details{ID: id("e"), Name: "late", Runtime: "podman"} })
	podman.send(id("e"), "create", time.Now())
	select {
	case c := <-changes:
		if c.Kind != Found || c.Container.Name != "late" {
			t.Errorf("change %s of %s", c.Kind, c.Container.Name)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the container of the runtime that is there is not reported")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := g.Watch(t.Context(), Selection{}, nil); err == nil {
		t.Error("nothing to watch: no error")
	}
	// With one away from the beginning, the other is ready.
	ctx, cancel = context.WithCancel(t.Context())
	ready := make(chan struct{})
	go func() {
		done <- g.Watch(ctx, Selection{All: true, Synced: func() { close(ready) }}, func(Change) {})
	}()
	wait("what can be reached is reported", ready)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
