package resolver

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// procFixture is a proc file system and a cgroup hierarchy.
type procFixture struct {
	t            *testing.T
	proc, cgroup string
}

func newProcFixture(t *testing.T) *procFixture {
	f := &procFixture{t: t, proc: t.TempDir(), cgroup: t.TempDir()}
	f.mounts("2 1 0:23 / " + f.cgroup + " rw - cgroup2 cgroup2 rw\n")
	return f
}

// mounts says what is mounted beside the root.
func (f *procFixture) mounts(lines string) {
	f.t.Helper()
	write(f.t, filepath.Join(f.proc, "self/mountinfo"), "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n"+lines)
}

// start adds a process whose root is a directory that stands for an overlay, or for
// something else if upper is empty.
func (f *procFixture) start(pid, startTicks int, root, upper, cgroup string) {
	f.t.Helper()
	dir := filepath.Join(f.proc, strconv.Itoa(pid))
	write(f.t, filepath.Join(dir, "stat"), fmt.Sprintf("%d (a) S %s1 0 %d 0\n", pid, strings.Repeat("1 ", 16), startTicks))
	write(f.t, filepath.Join(dir, "comm"), "prog\n")
	write(f.t, filepath.Join(dir, "cgroup"), "0::"+cgroup+"\n")
	mount := "1 0 0:40 / / rw - overlay overlay rw,lowerdir=/l,upperdir=" + upper + ",workdir=/w\n"
	if upper == "" {
		mount = "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n"
	}
	write(f.t, filepath.Join(dir, "mountinfo"), mount)
	if err := os.Symlink(root, filepath.Join(dir, "root")); err != nil {
		f.t.Fatal(err)
	}
}

func (f *procFixture) end(pid int) {
	f.t.Helper()
	if err := os.RemoveAll(filepath.Join(f.proc, strconv.Itoa(pid))); err != nil {
		f.t.Fatal(err)
	}
}

func (f *procFixture) engine(cfg ProcessesConfig) (*processes, error) {
	cfg.ProcRoot = f.proc
	e, err := NewProcesses(cfg)
	if err != nil {
		return nil, err
	}
	return e.(*processes), nil
}

func (f *procFixture) only(p *processes) Details {
	f.t.Helper()
	listed, err := p.List(f.t.Context())
	if err != nil || len(listed) != 1 {
		f.t.Fatalf("listed %+v, %v; want one", listed, err)
	}
	d, err := p.Inspect(f.t.Context(), listed[0].ID)
	if err != nil {
		f.t.Fatal(err)
	}
	return d
}

func TestProcessTree(t *testing.T) {
	f := newProcFixture(t)
	root, other := t.TempDir(), t.TempDir()
	f.start(10, 100, root, "/u/1", "/user.slice")
	f.start(11, 110, root, "/u/1", "/user.slice") // its child
	f.start(12, 120, other, "/u/2", "/user.slice")
	f.start(13, 130, "/", "", "/user.slice")
	ended := 0
	p, err := f.engine(ProcessesConfig{PIDs: []int{10}, Ended: func() { ended++ }})
	if err != nil {
		t.Fatal(err)
	}
	d := f.only(p)
	if d.PID != 10 || d.Name != "prog-10" || d.Runtime != RuntimeNone || d.DriverData["UpperDir"] != "/u/1" || len(d.ID) != idDigits || d.StartedAt.IsZero() {
		t.Errorf("%+v", d)
	}
	// The child goes on with the same layer.
	f.end(10)
	f.start(10, 900, other, "/u/2", "/user.slice") // somebody else
	if next := f.only(p); next.PID != 11 || next.ID != d.ID || next.Name != d.Name || ended != 0 {
		t.Errorf("after the first process: %+v, ended %d", next, ended)
	}
	f.end(11)
	if last := f.only(p); last.PID != 0 || last.State != StateExited {
		t.Errorf("after the last process: %+v", last)
	}
	f.only(p)
	if ended != 1 {
		t.Errorf("the end was told %d times", ended)
	}
	for pid, want := range map[int]string{13: "process 13: its root is no overlay but ext4", 99: "process 99: no such process"} {
		if _, err := f.engine(ProcessesConfig{PIDs: []int{pid}}); err == nil || err.Error() != want {
			t.Errorf("process %d: %v, want %s", pid, err, want)
		}
	}
}

// TestProcessesLeave: what was a container is one no more once its layer is gone, so
// that a host that makes many does not fill our memory.
func TestProcessesLeave(t *testing.T) {
	f := newProcFixture(t)
	p, err := f.engine(ProcessesConfig{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		upper := filepath.Join(t.TempDir(), "upper")
		if err := os.Mkdir(upper, 0o755); err != nil {
			t.Fatal(err)
		}
		f.start(100+i, 1, t.TempDir(), upper, "/user.slice")
		f.only(p)
		f.end(100 + i)
		f.only(p)
		if err := os.Remove(upper); err != nil {
			t.Fatal(err)
		}
		if listed, err := p.List(t.Context()); err != nil || len(listed) != 0 {
			t.Fatalf("after the removal: %+v, %v", listed, err)
		}
	}
	if len(p.roots)+len(p.there) != 0 {
		t.Errorf("remembered: %v, %v", p.roots, p.there)
	}
}

func TestProcessesOfCgroup(t *testing.T) {
	f := newProcFixture(t)
	write(t, filepath.Join(f.cgroup, "a/cgroup.procs"), "")
	write(t, filepath.Join(f.cgroup, "a/docker-"+id("a")+".scope/cgroup.procs"), "20\n21\n0\n")
	f.start(20, 1, t.TempDir(), "/u/1", "/a/docker-"+id("a")+".scope")
	f.start(21, 1, t.TempDir(), "/u/2", "/a/docker-"+id("a")+".scope") // another root in the same group
	f.start(22, 1, t.TempDir(), "/u/3", "/b")
	for _, name := range []string{"/a", filepath.Join(f.cgroup, "a")} {
		p, err := f.engine(ProcessesConfig{Cgroups: []string{name}})
		if err != nil {
			t.Fatal(err)
		}
		listed, err := p.List(t.Context())
		if err != nil || len(listed) != 2 || listed[0].ID != id("a") && listed[1].ID != id("a") {
			t.Errorf("%s: %+v, %v", name, listed, err)
		}
	}
	if _, err := f.engine(ProcessesConfig{Cgroups: []string{"/none"}}); err == nil {
		t.Error("no such control group: no error")
	}
	all, err := f.engine(ProcessesConfig{})
	if err != nil {
		t.Fatal(err)
	}
	if listed, err := all.List(t.Context()); err != nil || len(listed) != 3 {
		t.Errorf("all: %+v, %v", listed, err)
	}
}

// TestProcessesOfCgroupV1: a control group is looked for where runtimes make theirs,
// and in any other hierarchy that has it.
func TestProcessesOfCgroupV1(t *testing.T) {
	f := newProcFixture(t)
	f.mounts("2 1 0:23 / " + f.cgroup + "/unified rw - cgroup2 cgroup2 rw\n" +
		"3 1 0:24 / " + f.cgroup + "/systemd rw - cgroup cgroup rw,name=systemd\n" +
		"4 1 0:25 /lxc " + f.cgroup + "/memory rw - cgroup cgroup rw,memory\n")
	box := "/docker/" + id("a")
	write(t, filepath.Join(f.cgroup, "memory", box, "cgroup.procs"), "20\n")
	write(t, filepath.Join(f.cgroup, "unified", box, "cgroup.procs"), "")
	write(t, filepath.Join(f.cgroup, "systemd/job.service/cgroup.procs"), "20\n")
	f.start(20, 1, t.TempDir(), "/u/1", "/")
	write(t, filepath.Join(f.proc, "20/cgroup"), "7:cpu,memory:/lxc"+box+"\n1:name=systemd:/job.service\n0::/\n")
	for _, name := range []string{"/lxc" + box, f.cgroup + "/memory" + box, "/job.service", f.cgroup + "/systemd/job.service"} {
		p, err := f.engine(ProcessesConfig{Cgroups: []string{name}})
		if err != nil {
			t.Error(err)
			continue
		}
		if d := f.only(p); d.PID != 20 || d.ID != id("a") {
			t.Errorf("%s: %+v", name, d)
		}
	}
	for _, name := range []string{"/none", f.cgroup + "/memory/none"} {
		if _, err := f.engine(ProcessesConfig{Cgroups: []string{name}}); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
