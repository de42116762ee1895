//go:build linux

package e2e

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/layertrace/layertrace/internal/record"
)

// TestSeveralNames: of several containers, by name, by id and one to come, that
// are paused, restarted and made anew under their names, each is watched, and no
// other.
func TestSeveralNames(t *testing.T) {
	const later = "e2e-later"
	a, other := newBox(t), newBox(t)
	run := func() *box {
		t.Helper()
		c, err := runScript(env.docker, later, false, "echo -n twelve bytes >/w/later")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = env.docker.do("DELETE", "/containers/"+c.id+"?force=1", nil, nil) })
		return c
	}
	s := watch(t, "--wait", a.id[:12], later)

	// What is copied into a container that is paused is growth as well.
	env.docker.must(t, "POST", "/containers/"+a.id+"/pause", nil, nil)
	var archive bytes.Buffer
	w := imageWriter{tar: tar.NewWriter(&archive)}
	w.file("copied", 0o644, filler(500))
	if err := errors.Join(w.err, w.tar.Close()); err != nil {
		t.Fatal(err)
	}
	env.docker.must(t, "PUT", "/containers/"+a.id+"/archive?path=/w", &archive, nil)
	env.docker.must(t, "POST", "/containers/"+a.id+"/unpause", nil, nil)
	s.until(seenLimit, "what was copied while it was paused", func(v *view) error {
		got := v.sum(func(g *growth) bool {
			return a.of(g) && g.path() == "/w/copied" && g.Process != nil && g.Process.ContainerID == ""
		})
		if got.size != 500 {
			return fmt.Errorf("%+v, want size 500", got)
		}
		return nil
	})
	env.docker.must(t, "POST", "/containers/"+a.id+"/restart?t=0", nil, nil)
	a.start(t) // runs already
	a.run(t, "restarted", fields("write path=/w/restarted size=1000")...)
	other.run(t, "other", fields("write path=/w/other size=1000")...)

	first := run()
	gone := func(b *box) {
		t.Helper()
		s.until(seenLimit, b.id+" is counted", func(v *view) error {
			_, err := v.event(b, record.ContainerStopped)
			return errors.Join(err, grownAt(v, b, "sh", "/w/later", 12))
		})
		env.docker.must(t, "DELETE", "/containers/"+b.id+"?force=1", nil, nil)
		s.until(seenLimit, b.id+" is removed", func(v *view) error {
			_, err := v.event(b, record.ContainerRemoved)
			return err
		})
	}
	gone(first)
	second := run()
	gone(second)
	s.until(seenLimit, "writes after the restart", func(v *view) error { return grown(v, a, "restarted", 1000) })

	s.quiet(a)
	for b, want := range map[*box][]string{
		a:      {record.ContainerFound, record.ContainerStopped, record.ContainerStarted},
		first:  {record.ContainerFound, record.ContainerStarted, record.ContainerStopped, record.ContainerRemoved},
		second: {record.ContainerFound, record.ContainerStarted, record.ContainerStopped, record.ContainerRemoved},
		other:  nil,
	} {
		if got := s.eventsOf(b); !slices.Equal(got, want) {
			t.Errorf("%s %.12s: container events were %v, want %v", b.name, b.id, got, want)
		}
	}
	if got := s.sum(other.of); got.records != 0 {
		t.Errorf("records of a container that nobody asked for: %s", s.linesOf(other.of))
	}
}
