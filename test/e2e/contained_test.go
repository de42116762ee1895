//go:build linux

package e2e

import (
	"archive/tar"
	"bytes"
	"errors"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const ownImage = "layertrace-e2e-own:1"

// buildOwnImage makes the image of layertrace itself, by its Dockerfile.
func buildOwnImage(t *testing.T) {
	t.Helper()
	root, err := repositoryRoot()
	if err != nil {
		t.Fatal(err)
	}
	var context bytes.Buffer
	w := &imageWriter{tar: tar.NewWriter(&context)}
	w.program("Dockerfile", filepath.Join(root, "deploy/docker/Dockerfile"))
	w.program("layertrace", env.bin)
	if err := errors.Join(w.err, w.tar.Close()); err != nil {
		t.Fatal(err)
	}
	env.docker.must(t, "POST", "/build?t="+url.QueryEscape(ownImage), &context, nil)
	t.Cleanup(func() {
		if err := removeImage(ownImage); err != nil {
			t.Error(err)
		}
	})
}

// own is a command line that runs layertrace in a container.
func own(options []string, args ...string) *exec.Cmd {
	socket := strings.TrimPrefix(os.Getenv("DOCKER_HOST"), "unix://")
	if socket == "" {
		socket = "/var/run/docker.sock"
	}
	line := append([]string{"run", "--rm", "--network", "none", "-v", socket + ":/var/run/docker.sock"}, options...)
	return exec.Command("docker", append(append(line, ownImage), args...)...)
}

// TestContained: layertrace in a container of its own sees what it sees on the
// host, to the byte.
func TestContained(t *testing.T) {
	buildOwnImage(t)
	b := newBox(t)
	b.before = walkLayer(t, b.upper)
	const name = "e2e-own"
	t.Cleanup(func() { _ = env.docker.do("DELETE", "/containers/"+name+"?force=1", nil, nil) })
	s := launchCommand(t, own([]string{"--privileged", "--pid=host", "--cgroupns=host", "--name", name},
		"watch", "-o", "ndjson", "--interval", "200ms", "--include-mounts", b.name))
	s.ready()
	b.playCgroups(t)
	b.tool(t, "/bin/chown", "1:1", "/usr/share/data/blob") // copied up
	s.until(seenLimit, "every process with its container", b.checkCgroups)
	b.tool(t, "/bin/busybox", "sh", "-c", "echo a line >/proc/1/fd/1")
	s.until(seenLimit, "the log's growth", func(v *view) error {
		if len(v.logs) == 0 || v.logs[len(v.logs)-1].SizeGrowth == 0 {
			return errors.New("no growth of the log was reported")
		}
		return nil
	})
	event, err := s.event(b, "found")
	if err != nil || event.UpperDir != b.upper {
		t.Errorf("the container's upper directory is said to be %s, want %s (%v)", event.UpperDir, b.upper, err)
	}
	s.quiet(b)
	if err := b.checkCgroups(&s.view); err != nil {
		t.Errorf("at the end: %v", err)
	}
	if got := s.by(b, "chown"); got.copyUp < blobSize {
		t.Errorf("copied up by chown: %d, want %d at least", got.copyUp, blobSize)
	}
}

// TestContainedBlind: a container that cannot see the host is refused, and says
// which option it lacks.
func TestContainedBlind(t *testing.T) {
	buildOwnImage(t)
	pids, cgroups := "--pid=host", "--cgroupns=host"
	for _, tc := range []struct {
		missing string
		options []string
	}{
		{pids, []string{"--privileged"}},
		{"--privileged", []string{pids, cgroups}},
		{cgroups, []string{"--privileged", pids, "--cgroupns=private"}},
	} {
		t.Run("without "+tc.missing, func(t *testing.T) {
			message, hint := refused(t, 4, func(cmd *exec.Cmd) {
				line := own(tc.options, "watch", "any")
				cmd.Path, cmd.Args = line.Path, line.Args
			})
			mentions(t, message, tc.missing)
			mentions(t, hint, "docker run", "--privileged", pids, cgroups, "watch any")
		})
	}
}
