//go:build linux

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/internal/record"
)

// TestCgroups: the container of a process is found in whatever hierarchy this
// machine has (test/vm/run --cgroup), in the container's own cgroup and in one
// below it, as systemd in a container makes them; writes to mounts too.
func TestCgroups(t *testing.T) {
	b := newBox(t)
	b.before = walkLayer(t, b.upper)
	s := watch(t, "--include-mounts", b.name)
	b.playCgroups(t)
	s.until(seenLimit, "every process with its container", b.checkCgroups)
	s.quiet(b)
	if err := b.checkCgroups(&s.view); err != nil {
		t.Errorf("at the end: %v", err)
	}
}

// playCgroups has a process of the container's own cgroup write, and one of a
// cgroup below that.
func (b *box) playCgroups(t *testing.T) {
	t.Helper()
	b.run(t, "w-own", fields("write path=/w/own size=1000 then append path=/data/own size=3000")...)
	nested := b.spawn(t, "w-nested", fields("wait then write path=/w/nested size=1000 then append path=/data/nested size=3000")...)
	nested.until(t, "waiting")
	moveDown(t, b.hostPID(t, "w-nested"), b.id)
	nested.resume(t)
	nested.finish(t)
}

func (b *box) checkCgroups(v *view) error {
	for _, name := range []string{"own", "nested"} {
		for path, want := range map[string]struct {
			class string
			size  int64
		}{"/w/" + name: {record.ClassLayer, 1000}, "/data/" + name: {record.ClassVolume, 3000}} {
			on := func(g *growth) bool {
				return g.Container.ID == b.id && g.process() == "w-"+name && g.path() == path &&
					g.Storage.Class == want.class && g.Process.ContainerID == b.id
			}
			if got := v.sum(on); got.size != want.size || got.written != uint64(want.size) {
				return fmt.Errorf("w-%s, %s: size %d, written %d by processes of the container, want %d for both:\n%s", name, path, got.size, got.written,
					want.size, v.linesOf(func(g *growth) bool { return g.process() == "w-"+name }))
			}
		}
	}
	return nil
}

// moveDown moves a process to cgroups of its own, two levels below the container's,
// in each hierarchy in which that has one. They are removed with the container.
func moveDown(t *testing.T, pid int, container string) {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		t.Fatal(err)
	}
	moved := 0
	for line := range strings.Lines(string(data)) {
		_, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		controllers, path, _ := strings.Cut(rest, ":")
		if !strings.HasSuffix(path, "/"+container) || controllers == "cpuset" { // which would have to be given CPUs first
			continue
		}
		root := "/sys/fs/cgroup/" + controllers
		if controllers == "" && !cgroupV2(t) {
			root = "/sys/fs/cgroup/unified"
		}
		dir := filepath.Join(root, path, "system.slice/nested.service")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0o644); err != nil {
			t.Fatal(err)
		}
		moved++
	}
	if moved == 0 {
		t.Fatalf("process %d is in no cgroup of container %s:\n%s", pid, container, data)
	}
}

// cgroupV2 tells whether runtimes use cgroup v2 here.
func cgroupV2(t *testing.T) bool {
	t.Helper()
	return fileSystem(t, "/sys/fs/cgroup") == unix.CGROUP2_SUPER_MAGIC
}

// TestCgroupsNamed: doctor says which hierarchy is used.
func TestCgroupsNamed(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), env.bin, "doctor", "--json").Output()
	if err != nil {
		t.Fatalf("doctor: %v\n%s", err, out)
	}
	var said struct {
		Checks []struct {
			Name, Detail string
			OK           bool
		}
	}
	if err := json.Unmarshal(out, &said); err != nil {
		t.Fatal(err)
	}
	want := "cgroup v1, by the hierarchy of "
	if cgroupV2(t) {
		want = "cgroup v2"
	}
	for _, c := range said.Checks {
		if c.Name == "control groups" {
			if !c.OK || !strings.HasPrefix(c.Detail, want) {
				t.Errorf("doctor says %+v, want %q", c, want)
			}
			return
		}
	}
	t.Errorf("doctor says nothing of control groups:\n%s", out)
}
