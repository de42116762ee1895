//go:build linux

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestDockerRootless: containers of a user's own Docker, which mounts its overlays in
// namespaces of its own and, without systemd, has no control groups. Its daemon is found
// beside the system's.
func TestDockerRootless(t *testing.T) {
	if _, err := exec.LookPath("rootlesskit"); err != nil {
		t.Skip("rootlesskit is not in PATH (make test-rootless has it)")
	}
	if !kernelAtLeast(5, 11) {
		t.Skip("n/a: overlays in user namespaces")
	}
	user := newAccount(t, "e2e-docker", 1501)
	d := startRootless(t, user)
	t.Cleanup(d.stop)
	d.use(t)
	if err := importFiles(); err != nil {
		t.Fatal(err)
	}
	b := newBoxWith(t, boxOptions{owner: user})
	b.before = walkLayer(t, b.upper)
	if !strings.HasPrefix(b.upper, user.home) {
		t.Errorf("this test is wrong: the layer is at %s, not below %s", b.upper, user.home)
	}
	// As if nobody had said where the daemon is.
	t.Setenv("DOCKER_HOST", "")
	s := watch(t, "--all")
	b.exercise(s, false)
	b.run(t, "outside", fields("write path=/data/file size=7000 then write path=/run/file size=600")...)
	s.quiet(b)
	if got := s.by(b, "outside"); got.records != 0 {
		t.Errorf("the layer is charged with what is not its own: %+v", got)
	}
}

// startRootless starts a user's daemon, in namespaces that rootlesskit makes. Whoever
// does stops it.
func startRootless(t *testing.T, user *account) *driverDaemon {
	t.Helper()
	socket := filepath.Join(user.runtimeDir(), "docker.sock")
	d := &driverDaemon{
		root: filepath.Join(user.home, ".local/share/docker"), host: "unix://" + socket, api: dockerAt(socket),
		base: user.home, log: filepath.Join(t.ArtifactDir(), "dockerd-rootless.log"),
	}
	log, err := os.Create(d.log)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	settings := filepath.Join(user.home, "daemon.json")
	if err := os.WriteFile(settings, []byte("{}"), 0o644); err != nil {
		t.Fatal(err)
	}
	d.cmd = exec.Command("rootlesskit", "--net=host", "--copy-up=/etc", "--copy-up=/run", "--propagation=rslave",
		"sh", "-c", `rm -f /run/docker /run/containerd; exec dockerd "$@"`, "sh",
		"--config-file", settings, "--storage-driver", "overlay2", "--bridge", "none", "--iptables=false", "--ip6tables=false")
	user.runs(d.cmd)
	d.cmd.Stdout, d.cmd.Stderr = log, log
	if path, err := exec.LookPath("dockerd"); err == nil { // its libraries, where test/vm/fetch has put them
		d.cmd.Env = append(d.cmd.Env, "LD_LIBRARY_PATH="+filepath.Join(filepath.Dir(filepath.Dir(path)), "lib"))
	}
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	d.answers(t, 120*time.Second)
	return d
}
