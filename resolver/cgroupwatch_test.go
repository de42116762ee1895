package resolver

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Whose a cgroup was is known although it is gone by the time that is asked.
func TestNewGroups(t *testing.T) {
	root := t.TempDir()
	mkdir := func(name string) uint64 {
		t.Helper()
		name = filepath.Join(root, name)
		if err := os.MkdirAll(name, 0o755); err != nil {
			t.Fatal(err)
		}
		return inode(t, name)
	}
	gone := newActors(func(uint64) (string, error) { return "", unix.ESTALE })
	g := newGroups{root: root, actors: gone}
	if err := g.watch("/acme"); err != nil {
		t.Fatal(err) // nobody follows yet
	}
	there := mkdir("system.slice/docker-" + id("1") + ".scope")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- g.follow(ctx) }()
	find := func(cgroup uint64, want string) {
		t.Helper()
		deadline := time.Now().Add(10 * time.Second)
		for {
			gone.mu.Lock()
			_, noted := gone.looked[cgroup]
			gone.mu.Unlock()
			if noted {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("the cgroup of %.3s was not noted", want)
			}
			time.Sleep(time.Millisecond)
		}
		if got, ok := gone.find(cgroup, func(string) bool { return true }); !ok || got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	find(there, id("1"))
	// The first container makes the runtime's own.
	made := mkdir("docker/" + id("2"))
	find(made, id("2"))
	mkdir("docker/builds")
	mkdir("acme/team/x")
	if err := g.watch("/acme/team"); err != nil {
		t.Fatal(err)
	}
	find(mkdir("acme/team/"+id("3")), id("3"))
	find(mkdir("docker/"+id("4")), id("4"))
	if len(gone.looked) != 4 {
		t.Errorf("noted: %v", gone.looked)
	}
	if err := g.watch("/none"); !os.IsNotExist(err) {
		t.Errorf("no such cgroup: %v", err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := g.watch("/docker"); err != nil {
		t.Errorf("after the end: %v", err)
	}
	if err := (&newGroups{}).follow(t.Context()); err != nil {
		t.Errorf("no hierarchy: %v", err)
	}
}
