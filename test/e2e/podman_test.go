//go:build linux

package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/layertrace/layertrace/internal/record"
)

const (
	podmanImage = "localhost/" + imageName
	podmanPod   = "e2e-pod"
)

func podman(t *testing.T, args ...string) string {
	t.Helper()
	return command(t, "podman", args...)
}

func needPodman(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("podman"); err != nil {
		t.Skip("podman is not in PATH (make test-podman has it)")
	}
}

// podmanBoxes are the ways to make a container: options before and after `create`,
// and what its root is made of.
var podmanBoxes = []struct{ name, global, options, root string }{
	{"crun", "--runtime crun", "--network none", podmanImage},
	{"runc", "--runtime runc", "--network none", podmanImage},
	{"pod", "", "--pod " + podmanPod, podmanImage},
	{"rootfs", "", "--network none --rootfs", "DIR:O"},
}

// TestPodman: containers of podman, however they are made, are counted from the
// moment that they are created.
func TestPodman(t *testing.T) {
	needPodman(t)
	dir := scratch(t)
	root := filepath.Join(dir, "root")
	rootDir(t, root)
	t.Cleanup(func() {
		podman(t, "pod", "rm", "--force", "--time", "0", podmanPod)
		podman(t, "rm", "--all", "--force", "--time", "0", "--volumes")
		podman(t, "rmi", podmanImage)
	})
	podman(t, "import", "--quiet", filepath.Join(dir, "image.tar"), podmanImage)
	podman(t, "pod", "create", "--network", "none", "--name", podmanPod)

	s := watch(t, "--all", "--include-mounts")
	var boxes []*box
	for _, kind := range podmanBoxes {
		t.Run(kind.name, func(t *testing.T) {
			defer s.in(t)()
			b := newPodmanBox(t, s, nil, kind.name, fields(kind.global+" create "+kind.options), strings.Replace(kind.root, "DIR", root, 1))
			b.exercise(s, true)
			b.mounts(s)
			boxes = append(boxes, b)
		})
	}
	if len(boxes) != len(podmanBoxes) {
		t.FailNow()
	}
	settle(t, "/scratch")
	for i, b := range boxes {
		last := checkPodman(t, s, b)
		// What it takes to start it is growth, too.
		if last.BaselineSize != 0 {
			t.Errorf("%s was not counted from its creation: %+v", b.name, last)
		}
		// What --rootfs has for a layer is found when it is in use already.
		if last.UnattributedSize != 0 && podmanBoxes[i].root == podmanImage {
			t.Errorf("%s: nobody is known for %d bytes: %+v", b.name, last.UnattributedSize, last)
		}
	}

	b := boxes[2]
	size, allocated := walkLayer(t, b.upper).size, du(t, b.upper)
	podman(t, "rm", "--force", "--time", "0", b.name)
	s.until(seenLimit, "the container is removed", func(v *view) error {
		_, err := v.event(b, record.ContainerRemoved)
		return err
	})
	s.stop()
	checkRemoved(t, s, b, size, allocated)

	// By its name, until it is gone.
	b = boxes[1]
	b.before = walkLayer(t, b.upper)
	named := watch(t, b.name)
	b.found(named, "podman")
	b.run(t, "again", fields("append path=/w/log size=4321")...)
	named.until(seenLimit, "the write", func(v *view) error { return grown(v, b, "again", 4321) })
	settle(t, b.upper)
	size, allocated = walkLayer(t, b.upper).size, du(t, b.upper)
	podman(t, "rm", "--force", "--time", "0", b.name)
	named.exited(0)
	named.endedBy(record.EndedContainersGone)
	e, err := named.event(b, record.ContainerRemoved)
	if err != nil {
		t.Fatalf("%v\n%s", err, named.dump())
	}
	if e.LostSize == nil || *e.LostSize != size || e.LostAllocated == nil || *e.LostAllocated != allocated {
		t.Errorf("lost are %s and %s, the layer had %d and %d", number(e.LostSize), number(e.LostAllocated), size, allocated)
	}
	checkRemoved(t, named, b, size, allocated)

	// A directory as it is has no layer.
	podman(t, "run", "--detach", "--name", "e2e-dir", "--network", "none", "--rootfs", root, "/bin/sleep", "1000")
	out, err := exec.Command(env.bin, "watch", "e2e-dir").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "rootfs") {
		t.Errorf("watching a container of a directory: %v\n%s", err, out)
	}
}

// TestPodmanRootless: containers of a user's own podman, whose overlays are mounted in
// a user namespace (with the option userxattr) and which are in no control group.
func TestPodmanRootless(t *testing.T) {
	needPodman(t)
	if _, err := exec.LookPath("newuidmap"); err != nil {
		t.Skip("newuidmap is not in PATH (make test-rootless has it)")
	}
	user := newAccount(t, "e2e-user", 1500)
	imageArchive(t, user.home)
	commandAs(t, user, "podman", "import", "--quiet", filepath.Join(user.home, "image.tar"), podmanImage)
	t.Cleanup(func() {
		commandAs(t, user, "podman", "rm", "--all", "--force", "--time", "0", "--volumes")
		commandAs(t, user, "podman", "rmi", podmanImage)
	})

	s := watch(t, "--all")
	b := newPodmanBox(t, s, user, "rootless", fields("create --network none --cgroups disabled"), podmanImage)
	b.exercise(s, false)
	settle(t, "/scratch")
	if last := checkPodman(t, s, b); last.BaselineSize != 0 || last.UnattributedSize != 0 {
		t.Errorf("%s was not counted from its creation: %+v", b.name, last)
	}
	size, allocated := walkLayer(t, b.upper).size, du(t, b.upper)
	commandAs(t, user, "podman", "rm", "--force", "--time", "0", b.name)
	s.until(seenLimit, "the container is removed", func(v *view) error {
		_, err := v.event(b, record.ContainerRemoved)
		return err
	})
	s.stop()
	checkRemoved(t, s, b, size, allocated)
}

// newPodmanBox makes a container of a user, or of root, with a volume at /data, a tmpfs
// at /run and a bind mount at /ctl.
func newPodmanBox(t *testing.T, s *session, user *account, name string, create []string, root string) *box {
	t.Helper()
	b := &box{ctl: filepath.Join(env.dir, "podman-"+name), volume: "e2e-" + name + "-data"}
	name = "e2e-" + name
	if err := os.Mkdir(b.ctl, 0o755); err != nil {
		t.Fatal(err)
	}
	if user != nil {
		user.owns(t, b.ctl)
	}
	args := append(create, "--name", name, "--volume", b.volume+":/data", "--volume", b.ctl+":/ctl", "--tmpfs", "/run:mode=755", root)
	commandAs(t, user, "podman", append(args, "/bin/workload", "serve", "/ctl/socket", "/run")...)
	commandAs(t, user, "podman", "start", name)
	pid, err := strconv.Atoi(commandAs(t, user, "podman", "inspect", "--format", "{{.State.Pid}}", name))
	if err != nil {
		t.Fatal(err)
	}
	b.pid, b.upper = pid, rootUpper(t, pid)
	b.ready(t)
	// Not when it is found: what --rootfs has for a layer comes with its start.
	s.until(seenLimit, "the start of "+name, func(v *view) error {
		i := slices.IndexFunc(v.events, func(e record.ContainerEvent) bool {
			return e.Event == record.ContainerStarted && e.UpperDir == b.upper
		})
		if i < 0 {
			return fmt.Errorf("%s is not the layer of any container that was started", b.upper)
		}
		c := v.events[i].Container
		b.id, b.name = c.ID, c.Name
		if c.Runtime != "podman" || c.Name != name {
			t.Errorf("the container is %+v, want %s, of podman", c, name)
		}
		return nil
	})
	return b
}

// rootUpper is the upper directory of a process's root, as the kernel has it.
func rootUpper(t *testing.T, pid int) string {
	t.Helper()
	table, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(table)) {
		if strings.Fields(line)[4] != "/" {
			continue
		}
		if upper := upperOption(line); upper != "" {
			return upper
		}
	}
	t.Fatalf("the root of process %d is no overlay:\n%s", pid, table)
	return ""
}

// mounts writes to the box's volume and tmpfs, which are told from the layer.
func (b *box) mounts(s *session) {
	s.t.Helper()
	b.run(s.t, "mounts", fields("write path=/data/file size=7000 then write path=/run/file size=600")...)
	s.until(seenLimit, "the writes to mounts", func(v *view) error {
		on := func(class string) total {
			return v.sum(func(g *growth) bool {
				return g.Container.ID == b.id && g.process() == "mounts" && g.Storage.Class == class && (class != record.ClassVolume || g.Storage.Name == b.volume)
			})
		}
		if volume, tmpfs := on(record.ClassVolume), on(record.ClassTmpfs); volume.written != 7000 || tmpfs.written != 600 {
			return fmt.Errorf("volume: %+v, tmpfs: %+v; want 7000 and 600 written", volume, tmpfs)
		}
		if got := v.by(b, "mounts"); got.records != 0 {
			return errors.New("the layer is charged with what is not its own")
		}
		return nil
	})
}

// checkPodman holds what is known of a running container against the disk. What
// podman says of its size has podman's own files about it in it, and is no measure.
func checkPodman(t *testing.T, s *session, b *box) (last record.Layer) {
	t.Helper()
	now, disk := walkLayer(t, b.upper), du(t, b.upper)
	s.until(seenLimit, "the layer record of "+b.name+" says what is on the disk", func(v *view) error {
		var err error
		last, err = v.lastLayer(b)
		if err == nil && (last.Size != now.size || last.Allocated != disk) {
			err = fmt.Errorf("it is %+v; a walk found %d, du %d", last, now.size, disk)
		}
		return err
	})
	sum := s.sum(b.of)
	if sum.size != last.Size-last.BaselineSize || sum.disk != last.Allocated-last.BaselineAllocated {
		t.Errorf("%s: the growth records add up to %+v, the last layer record is %+v", b.name, sum, last)
	}
	return last
}
