//go:build linux

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/layertrace/layertrace/internal/record"
)

// TestLifecycle: a container is stopped, started again, renamed and removed
// while it is watched.
func TestLifecycle(t *testing.T) {
	const bootSize, bootPath = 777, "/var/boot.log"
	// What the container's first process does the moment it starts.
	b := newBox(t, fields(fmt.Sprintf("append path=%s size=%d", bootPath, bootSize))...)
	b.before = walkLayer(t, b.upper)
	if _, n := b.before.find(bootPath); n == nil || n.size != bootSize {
		t.Fatalf("this test is wrong: the container did not write %s when it started", bootPath)
	}
	s := watch(t, b.name)
	s.until(seenLimit, "the container is found", func(v *view) error {
		_, err := v.event(b, record.ContainerFound)
		return err
	})
	b.run(t, "first", fields("write path=/var/first size=1000")...)
	s.until(seenLimit, "the first write", func(v *view) error { return grown(v, b, "first", 1000) })

	env.docker.must(t, "POST", "/containers/"+b.id+"/stop?t=1", nil, nil)
	s.until(seenLimit, "the container is stopped", func(v *view) error {
		_, err := v.event(b, record.ContainerStopped)
		return err
	})

	// After the restart everything counts from the first byte: here, those that
	// the first process writes before anything else.
	b.start(t)
	s.until(seenLimit, "the container is started", func(v *view) error {
		_, err := v.event(b, record.ContainerStarted)
		return err
	})
	s.until(seenLimit, "what the container wrote when it started", func(v *view) error {
		return grown(v, b, "workload", bootSize)
	})
	if got := s.byIn(b, "workload", bootPath); got.written != bootSize {
		t.Errorf("the first process wrote %d bytes after the restart, the stream says %+v", bootSize, got)
	}

	old, renamed := b.name, b.name+"-new"
	env.docker.must(t, "POST", "/containers/"+b.id+"/rename?name="+renamed, nil, nil)
	s.until(seenLimit, "the container is renamed", func(v *view) error {
		e, err := v.event(b, record.ContainerRenamed)
		if err == nil && e.Container.Name != renamed {
			err = fmt.Errorf("it is now called %q, want %q", e.Container.Name, renamed)
		}
		return err
	})
	b.run(t, "second", fields("write path=/var/second size=2000")...)
	s.until(seenLimit, "the second write", func(v *view) error { return grown(v, b, "second", 2000) })
	for i := range s.growth {
		g := &s.growth[i]
		want := old
		if g.process() == "second" {
			want = renamed
		}
		if g.process() != "workload" && g.Container.Name != want {
			t.Errorf("the container's name is %q, want %q:\n%s", g.Container.Name, want, g.line)
		}
	}

	// Everything is lost with the container, and said so.
	settle(t, b.upper)
	s.until(seenLimit, "the layer record says what Docker says", func(v *view) error {
		l, err := v.lastLayer(b)
		if err == nil && (l.Size != b.size(t) || l.Allocated != du(t, b.upper)) {
			err = fmt.Errorf("it says %+v", l)
		}
		return err
	})
	size, allocated := b.size(t), du(t, b.upper)
	if size != bootSize*2+3000 {
		t.Fatalf("this test is wrong: the layer has %d, want %d", size, bootSize*2+3000)
	}
	env.docker.must(t, "DELETE", "/containers/"+b.id+"?force=1", nil, nil)
	s.exited(0)
	s.endedBy(record.EndedContainersGone)
	e, err := s.event(b, record.ContainerRemoved)
	if err != nil {
		t.Fatalf("%v\n%s", err, s.dump())
	}
	if e.LostSize == nil || *e.LostSize != size {
		t.Errorf("lost_size is %s, docker inspect -s said %d before", number(e.LostSize), size)
	}
	if e.LostAllocated == nil || *e.LostAllocated != allocated {
		t.Errorf("lost_allocated is %s, du said %d before", number(e.LostAllocated), allocated)
	}
	lost := map[string]int64{}
	for _, p := range e.LostPaths {
		lost[record.Raw(p.Path, p.PathB64)] = p.Size
	}
	for path, size := range map[string]int64{"/var/second": 2000, bootPath: 2 * bootSize, "/var/first": 1000} {
		if lost[path] != size {
			t.Errorf("lost_paths does not say that %s had %d bytes: %+v", path, size, e.LostPaths)
		}
	}
	want := []string{record.ContainerFound, record.ContainerStopped, record.ContainerStarted, record.ContainerRenamed, record.ContainerStopped, record.ContainerRemoved}
	if got := s.eventsOf(b); !slices.Equal(got, want) {
		t.Errorf("container events were %v, want %v", got, want)
	}
	checkRemoved(t, s, b, size, allocated)
}

// checkRemoved holds a run against what was known of a container before it was
// removed: what was lost with it is not negative growth.
func checkRemoved(t *testing.T, s *session, b *box, size, allocated int64) {
	t.Helper()
	last, err := s.lastLayer(b)
	if err != nil {
		t.Fatal(err)
	}
	if last.Size != size || last.Allocated != allocated || last.UnattributedSize != 0 || last.UnattributedDisk != 0 {
		t.Errorf("the last layer record is %+v; want size %d, allocated %d and nothing unattributed", last, size, allocated)
	}
	sum := s.sum(b.of)
	if sum.size != last.Size-last.BaselineSize || sum.disk != last.Allocated-last.BaselineAllocated {
		t.Errorf("the growth records add up to %+v, the last layer record is %+v", sum, last)
	}
	i := slices.IndexFunc(s.summary.Containers, func(c record.ContainerSummary) bool { return c.Container.ID == b.id })
	if i < 0 || !s.summary.Containers[i].Removed {
		t.Errorf("the summary does not list the container as removed: %+v", *s.summary)
	}
	if len(s.losses) != 0 {
		t.Errorf("losses: %+v", s.losses)
	}
}

// TestRunToCompletion: with --wait, a container that does not exist yet is
// counted from the first byte that its first process writes. The run goes on when
// it has ended.
func TestRunToCompletion(t *testing.T) {
	name := "e2e-to-come"
	s := watch(t, "--wait", name)
	ctl := t.TempDir()
	create := map[string]any{
		"Image":      imageName,
		"Cmd":        fields("/bin/workload append path=/var/job.log size=54321 chunk=1000 then chmod path=/img/chmod"),
		"HostConfig": map[string]any{"NetworkMode": "none", "Binds": []string{ctl + ":/ctl"}},
	}
	var created struct {
		ID string `json:"Id"`
	}
	env.docker.must(t, "POST", "/containers/create?name="+name, create, &created)
	b := &box{id: created.ID, name: name}
	t.Cleanup(func() { _ = env.docker.do("DELETE", "/containers/"+b.id+"?force=1", nil, nil) })
	env.docker.must(t, "POST", "/containers/"+b.id+"/start", nil, nil)
	var waited struct{ StatusCode int }
	env.docker.must(t, "POST", "/containers/"+b.id+"/wait", nil, &waited)
	if waited.StatusCode != 0 {
		t.Fatalf("the container's process failed: %+v", waited)
	}
	got := env.docker.inspect(t, b.id, false)
	b.upper, _ = got.place(t)
	want := int64(54_321) + img("chmod")
	if size := b.size(t); size != want {
		t.Fatalf("this test is wrong: the layer's size is %d, want %d", size, want)
	}
	s.until(seenLimit, "the container's only process", func(v *view) error { return grown(v, b, "workload", want) })
	s.quiet(b)
	if got := s.byIn(b, "workload", "/var/job.log"); got.size != 54_321 || got.written != 54_321 {
		t.Errorf("/var/job.log: %+v, want size and written 54321", got)
	}
	if _, err := os.Stat(filepath.Join(ctl, "socket")); err == nil {
		t.Error("this test is wrong: the container served requests")
	}
}

// grown tells whether processes of that name grew the layer by just so much.
func grown(v *view, b *box, name string, size int64) error {
	if got := v.by(b, name); got.size != size {
		return fmt.Errorf("%s grew the layer by %d, want %d:\n%s", name, got.size, size, v.linesOf(func(g *growth) bool { return b.of(g) && g.process() == name }))
	}
	return nil
}

func number(n *int64) string {
	if n == nil {
		return "absent"
	}
	return fmt.Sprint(*n)
}
