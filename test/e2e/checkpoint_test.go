//go:build linux

package e2e

import (
	"fmt"
	"os/exec"
	"slices"
	"testing"

	"github.com/layertrace/layertrace/internal/record"
)

// TestDaemonCheckpoint: a container that is frozen to disk and ends, and goes on later
// where it was, by a process of another number, goes on in the books as well.
func TestDaemonCheckpoint(t *testing.T) {
	if _, err := exec.LookPath("criu"); err != nil {
		t.Skip("criu is not in PATH (make test-daemon has it)")
	}
	d := newDaemon(t, "--experimental")
	d.start()
	d.image()
	s := watch(t, "--all", "--docker-host", d.host)
	var created struct {
		ID string `json:"Id"`
	}
	d.api.must(t, "POST", "/containers/create?name=e2e-checkpoint", map[string]any{
		"Image": imageName,
		"Cmd":   []string{"sh", "-c", "chmod 600 /img/chmod; while :; do echo -n 0123456789 >>/w/log; busybox usleep 200000; done"},
		// CRIU locks a network of the container's own by programs that may be missing.
		"HostConfig": map[string]any{"NetworkMode": "host", "SecurityOpt": []string{"seccomp=unconfined"}},
	}, &created)
	b := &box{id: created.ID, name: "e2e-checkpoint", docker: d.api}
	got := d.api.inspect(t, b.id, false)
	b.upper, _ = got.place(t)
	d.api.must(t, "POST", "/containers/"+b.id+"/start", nil, nil)

	written := func(v *view) total {
		return v.sum(func(g *growth) bool { return b.of(g) && g.path() == "/w/log" && g.Process != nil })
	}
	grows := func(beyond int64) total {
		t.Helper()
		var now total
		s.until(seenLimit, "it writes", func(v *view) error {
			if now = written(v); now.size < beyond+30 {
				return fmt.Errorf("it has written %d bytes, want %d at least", now.size, beyond+30)
			}
			return nil
		})
		return now
	}
	events := func(want ...string) {
		t.Helper()
		s.until(seenLimit, "its events", func(v *view) error {
			if got := v.eventsOf(b); !slices.Equal(got, want) {
				return fmt.Errorf("they were %v, want %v", got, want)
			}
			return nil
		})
	}
	grows(0)
	d.api.must(t, "POST", "/containers/"+b.id+"/checkpoints", map[string]any{"CheckpointID": "one", "Exit": true}, nil)
	events(record.ContainerFound, record.ContainerStarted, record.ContainerStopped)
	before := grows(0)
	d.api.must(t, "POST", "/containers/"+b.id+"/start?checkpoint=one", nil, nil)
	grows(before.size)
	d.api.must(t, "POST", "/containers/"+b.id+"/stop?t=0", nil, nil)
	events(record.ContainerFound, record.ContainerStarted, record.ContainerStopped, record.ContainerStarted, record.ContainerStopped)
	s.quiet(b)
	if end := written(&s.view); end.size != int64(end.written) {
		t.Errorf("/w/log grew by %d, and %d bytes were written to it", end.size, end.written)
	}
}
