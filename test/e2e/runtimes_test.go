//go:build linux

package e2e

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/internal/record"
)

// scratch makes a directory on a disk of which nothing lies on an overlay.
func scratch(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/scratch", "e2e-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// rootDir writes the image's files into a directory.
func rootDir(t *testing.T, dir string) {
	t.Helper()
	archive := imageArchive(t, filepath.Dir(dir))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	command(t, "tar", "xf", archive, "-C", dir)
}

// imageArchive writes the image's files as an archive.
func imageArchive(t *testing.T, dir string) string {
	t.Helper()
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(dir, "image.tar"))
	if err != nil {
		t.Fatal(err)
	}
	buffered := bufio.NewWriterSize(f, 1<<20)
	w := &imageWriter{tar: tar.NewWriter(buffered)}
	writeImage(w, busybox)
	if err := errors.Join(w.err, w.tar.Close(), buffered.Flush(), f.Close()); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

// command runs a program that must succeed and returns what it wrote.
func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	return commandAs(t, nil, name, args...)
}

// commandAs runs a command for a user, or for root.
func commandAs(t *testing.T, user *account, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	if user != nil {
		user.runs(cmd)
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out, stderr.String())
	}
	return strings.TrimSpace(string(out))
}

// account is a user of the machine, who may use user namespaces.
type account struct {
	id   uint32
	home string
}

// newAccount adds a user, with a home directory on the tests' own file system. There
// is no way back: the machine is the tests' own.
func newAccount(t *testing.T, name string, id uint32) *account {
	t.Helper()
	u := &account{id: id, home: scratch(t)}
	for file, line := range map[string]string{
		"/etc/passwd": fmt.Sprintf("%s:x:%d:%d::%s:/bin/sh\n", name, id, id, u.home),
		"/etc/group":  fmt.Sprintf("%s:x:%d:\n", name, id),
		"/etc/subuid": name + ":1000000:65536\n",
		"/etc/subgid": name + ":1000000:65536\n",
	} {
		f, err := os.OpenFile(file, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.WriteString(line)
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.MkdirAll(filepath.Dir(u.runtimeDir()), 0o755), os.Mkdir(u.runtimeDir(), 0o700)); err != nil {
		t.Fatal(err)
	}
	u.owns(t, u.home, u.runtimeDir())
	return u
}

// runtimeDir is where systemd would have one for the user.
func (u *account) runtimeDir() string { return fmt.Sprintf("/run/user/%d", u.id) }

// owns gives files to the user.
func (u *account) owns(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if err := os.Chown(name, int(u.id), int(u.id)); err != nil {
			t.Fatal(err)
		}
	}
}

// runs makes a command one of the user's.
func (u *account) runs(cmd *exec.Cmd) {
	cmd.Dir = u.home
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + u.home, "XDG_RUNTIME_DIR=" + u.runtimeDir()}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: u.id, Gid: u.id}}
}

// overlayProcess starts a process whose root is an overlay that no runtime made.
func overlayProcess(t *testing.T, attr *syscall.SysProcAttr) (*box, *exec.Cmd) {
	t.Helper()
	dir := scratch(t)
	lower, merged := filepath.Join(dir, "lower"), filepath.Join(dir, "merged")
	b := &box{name: filepath.Base(dir), upper: filepath.Join(dir, "upper"), ctl: filepath.Join(dir, "ctl")}
	rootDir(t, lower)
	for _, d := range []string{b.upper, filepath.Join(dir, "work"), merged, b.ctl} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	mount := func(source, target, fs string, flags uintptr, data string) {
		t.Helper()
		if err := unix.Mount(source, target, fs, flags, data); err != nil {
			t.Fatalf("mounting %s: %v", target, err)
		}
		t.Cleanup(func() { _ = unix.Unmount(target, unix.MNT_DETACH) })
	}
	mount("overlay", merged, "overlay", 0, fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", lower, b.upper, filepath.Join(dir, "work")))
	mount("proc", filepath.Join(merged, "proc"), "proc", 0, "")
	mount("tmpfs", filepath.Join(merged, "run"), "tmpfs", 0, "mode=755")
	mount(b.ctl, filepath.Join(merged, "ctl"), "", unix.MS_BIND, "")
	cmd := exec.Command("/bin/workload", "serve", "/ctl/socket", "/run")
	attr.Chroot, attr.Pdeathsig = merged, syscall.SIGKILL
	cmd.SysProcAttr, cmd.Dir = attr, "/"
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	b.pid = cmd.Process.Pid
	b.ready(t)
	return b, cmd
}

// ready waits until the box takes requests, and keeps its layer as it is then.
func (b *box) ready(t *testing.T) {
	t.Helper()
	eventually(t, 60*time.Second, "the container takes requests", func() error {
		c, err := net.Dial("unix", filepath.Join(b.ctl, "socket"))
		if err != nil {
			return err
		}
		return c.Close()
	})
	b.before = walkLayer(t, b.upper)
}

// found waits for the box's container record and takes its id and name from there.
func (b *box) found(s *session, runtime string) record.ContainerEvent {
	s.t.Helper()
	var event record.ContainerEvent
	s.until(seenLimit, "the container of "+b.upper+" is found", func(v *view) error {
		i := slices.IndexFunc(v.events, func(e record.ContainerEvent) bool {
			return e.Event == record.ContainerFound && e.UpperDir == b.upper
		})
		if i < 0 {
			return fmt.Errorf("no such record among %+v", v.events)
		}
		event = v.events[i]
		return nil
	})
	b.id, b.name = event.Container.ID, event.Container.Name
	if event.Container.Runtime != runtime {
		s.t.Errorf("the runtime is %q, want %q", event.Container.Runtime, runtime)
	}
	return event
}

// exercise changes the box's layer and requires the bytes.
func (b *box) exercise(s *session, inContainer bool) {
	s.t.Helper()
	b.run(s.t, "writer", fields("append path=/w/log size=5000 chunk=1000 then chmod path=/img/chmod then write path=/run/covered size=900")...)
	s.until(seenLimit, "the writes", func(v *view) error { return grown(v, b, "writer", 5000+img("chmod")) })
	if got := s.byIn(b, "writer", "/w/log"); got.size != 5000 || got.written != 5000 {
		s.t.Errorf("/w/log: %+v, want 5000 written", got)
	}
	for i := range s.growth {
		g := &s.growth[i]
		if b.of(g) && g.process() == "writer" && (g.Process.ContainerID == b.id) != inContainer {
			s.t.Errorf("the writer is in container %q, want %s: %v\n%s", g.Process.ContainerID, b.id, inContainer, g.line)
		}
	}
}

// checkLayer holds a finished run against the disk.
func checkLayer(t *testing.T, s *session, b *box) {
	t.Helper()
	layers := s.layersOf(b)
	if len(layers) == 0 {
		t.Fatalf("no layer record\n%s", s.dump())
	}
	first, last, sum, after := layers[0], layers[len(layers)-1], s.sum(b.of), walkLayer(t, b.upper)
	if first.BaselineSize != b.before.size || first.BaselineAllocated != b.before.disk {
		t.Errorf("the baseline is %d, %d on the disk; a walk found %d, %d", first.BaselineSize, first.BaselineAllocated, b.before.size, b.before.disk)
	}
	if sum.size != after.size-b.before.size || sum.disk != after.disk-b.before.disk {
		t.Errorf("the growth records add up to %+v; the layer grew by %d, %d on the disk", sum, after.size-b.before.size, after.disk-b.before.disk)
	}
	if last.Size != after.size || last.Allocated != du(t, b.upper) || last.UnattributedSize != 0 || b.exactDisk(t) && last.UnattributedDisk != 0 {
		t.Errorf("the last layer record is %+v; a walk found %d, %d on the disk", last, after.size, after.disk)
	}
	if len(s.losses) != 0 {
		t.Errorf("losses: %+v", s.losses)
	}
}

// TestPID: a process tree without a runtime, and its end.
func TestPID(t *testing.T) {
	b, cmd := overlayProcess(t, &syscall.SysProcAttr{})
	s := watch(t, "--pid", strconv.Itoa(b.pid))
	b.found(s, "none")
	b.exercise(s, false)
	settle(t, b.upper)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	s.exited(0)
	s.endedBy(record.EndedContainersGone)
	checkLayer(t, s, b)
	// The layer is still there: nothing was removed.
	if got, want := s.eventsOf(b), []string{record.ContainerFound, record.ContainerStopped}; !slices.Equal(got, want) {
		t.Errorf("container events were %v, want %v", got, want)
	}
}

// TestCgroup: what comes to run in a control group after layertrace does.
func TestCgroup(t *testing.T) {
	dir := "/sys/fs/cgroup/e2e-cgroup"
	inner := filepath.Join(dir, "inner")
	if err := os.MkdirAll(inner, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		eventually(t, 10*time.Second, "the control group is empty", func() error {
			return errors.Join(ignoreGone(unix.Rmdir(inner)), unix.Rmdir(dir))
		})
	})
	s := watch(t, "--cgroup", "/e2e-cgroup")
	fd, err := unix.Open(inner, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	b, _ := overlayProcess(t, &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: fd})
	b.found(s, "none")
	b.exercise(s, false)
	settle(t, b.upper)
	s.stop()
	checkLayer(t, s, b)
}

func ignoreGone(err error) error {
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// readyAgain waits until the box takes requests.
func (b *box) readyAgain(t *testing.T) {
	t.Helper()
	before := b.before
	b.ready(t)
	b.before = before
}

// TestContainerd: a container that containerd's own client made.
func TestContainerd(t *testing.T) {
	const socket, namespace, name = "/run/containerd/containerd.sock", "e2e", "web"
	dir := scratch(t)
	log, err := os.Create(filepath.Join(t.ArtifactDir(), "containerd.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	daemon := exec.Command("containerd", "--address", socket, "--root", filepath.Join(dir, "root"), "--state", "/run/e2e-containerd")
	daemon.Stdout, daemon.Stderr = log, log
	daemon.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = daemon.Process.Kill()
		_ = daemon.Wait()
		_ = os.Remove(socket)
	})
	eventually(t, 60*time.Second, "containerd answers", func() error {
		return exec.Command("ctr", "--address", socket, "version").Run()
	})
	ctr := func(args ...string) string {
		t.Helper()
		return command(t, "ctr", append([]string{"--address", socket, "--namespace", namespace}, args...)...)
	}
	archive := filepath.Join(dir, "docker.tar")
	dockerCLI(t, "save", "-o", archive, imageName)
	ctr("images", "import", archive)

	b := &box{ctl: t.TempDir()}
	s := watch(t, "--runtime", "containerd", "--all")
	ctr("containers", "create", "--mount", "type=bind,src="+b.ctl+",dst=/ctl,options=rbind:rw", "--mount", "type=tmpfs,src=tmpfs,dst=/run,options=mode=755",
		"docker.io/library/"+imageName, name, "/bin/workload", "serve", "/ctl/socket", "/run")
	mounts := ctr("snapshots", "mounts", "/nowhere", name)
	if b.upper = upperOption(mounts); b.upper == "" {
		t.Fatalf("ctr snapshots mounts: %q", mounts)
	}
	b.before = walkLayer(t, b.upper)
	b.found(s, "containerd")
	if b.id != namespace+"/"+name || b.name != name {
		t.Errorf("the container is %s, called %s", b.id, b.name)
	}
	ctr("tasks", "start", "--detach", name)
	b.readyAgain(t)
	b.exercise(s, true)
	settle(t, b.upper)
	size, allocated := walkLayer(t, b.upper).size, du(t, b.upper)
	ctr("tasks", "kill", "--signal", "SIGKILL", name)
	s.until(seenLimit, "the container is stopped", func(v *view) error {
		_, err := v.event(b, record.ContainerStopped)
		return err
	})
	eventually(t, 30*time.Second, "the task is gone", func() error {
		return exec.Command("ctr", "--address", socket, "--namespace", namespace, "tasks", "delete", name).Run()
	})
	ctr("containers", "delete", name)
	s.until(seenLimit, "the container is removed", func(v *view) error {
		_, err := v.event(b, record.ContainerRemoved)
		return err
	})
	s.stop()
	checkRemoved(t, s, b, size, allocated)
}
