//go:build linux

package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
)

// fromHost requires that the records of these processes say where they belong to:
// to no container.
func (st *stage) fromHost(t *testing.T, executable string, names ...string) {
	t.Helper()
	for _, name := range names {
		inside := func(g *growth) bool {
			return st.b.of(g) && g.process() == name && (g.Process.ContainerID != "" || g.Process.Executable != executable)
		}
		if st.sum(inside).records != 0 {
			t.Errorf("%s is a process of the host that executes %s:\n%s", name, executable, st.linesOf(inside))
		}
	}
}

// fromTheHost: a process of the host changes the layer through its mount, and one
// that has entered the container's mount namespace.
func fromTheHost(t *testing.T, st *stage) {
	got := env.docker.inspect(t, st.b.id, false)
	_, merged := got.place(t)
	hostRun(t, "w-merged", "write", "path="+filepath.Join(merged, "w/merged"), "size=3000", "then", "chmod", "path="+filepath.Join(merged, "img/outside"))
	hostRun(t, "w-setns", "setns", "pid="+strconv.Itoa(st.b.pid), "then", "append", "path=/w/merged", "size=2000", "then", "write", "path=/w/setns", "size=1000")
	_, copied := st.stat(t, "/img/outside")
	st.require("the processes of the host",
		charged{"w-merged", "/w/merged", 3000, 4096, 3000},
		charged{"w-merged", "/img/outside", img("outside"), copied, 0},
		charged{"w-setns", "/w/merged", 2000, 4096, 2000},
		charged{"w-setns", "/w/setns", 1000, 4096, 1000})
	st.fromHost(t, env.workload, "w-merged", "w-setns")
}

// byNsenter: a person executes a program of the container by nsenter.
func byNsenter(t *testing.T, st *stage) {
	const name = "w-nsenter"
	if err := os.Symlink("/bin/workload", filepath.Join(st.b.ctl, name)); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "nsenter", "--target", strconv.Itoa(st.b.pid), "--mount", "/ctl/"+name, "write", "path=/w/nsenter", "size=4321").CombinedOutput()
	if err != nil {
		t.Fatalf("nsenter: %v\n%s", err, out)
	}
	st.require("the program that nsenter executed", charged{name, "/w/nsenter", 4321, 8192, 4321})
	st.fromHost(t, "/bin/workload", name)
}

// throughProcRoot: a process of the host goes by /proc/PID/root, where it shares no
// namespace with the container.
func throughProcRoot(t *testing.T, st *stage) {
	const name, path = "w-proc-root", "/w/proc-root"
	hostRun(t, name, fields("write path="+st.b.inside(path)+" size=5000 then chmod path="+st.b.inside("/img/proc-root")+" then truncate path="+st.b.inside(path)+" size=4000")...)
	_, copied := st.stat(t, "/img/proc-root")
	st.require("the process of the host",
		charged{name, path, 4000, 4096, 5000},
		charged{name, "/img/proc-root", img("proc-root"), copied, 0})
	st.fromHost(t, env.workload, name)
}

// dockerExec: a person executes a program in the container.
func dockerExec(t *testing.T, st *stage) {
	const name, path = "w-docker-exec", "/w/docker-exec"
	if err := os.Symlink("/bin/workload", filepath.Join(st.b.ctl, name)); err != nil {
		t.Fatal(err)
	}
	dockerCLI(t, "exec", st.b.name, "/ctl/"+name, "write", "path="+path, "size=4321")
	st.require("the program that docker executed", charged{name, path, 4321, 8192, 4321})
	if outside := func(g *growth) bool { return st.b.of(g) && g.process() == name && g.Process.ContainerID != st.b.id }; st.sum(outside).records != 0 {
		t.Errorf("it is a process of the container:\n%s", st.linesOf(outside))
	}
}

// dockerCopy: a person copies a file and a directory into the container, and over a
// file of the image. By which process of the daemon's is Docker's affair.
func dockerCopy(t *testing.T, st *stage) {
	const file, dir, over = "/w/docker-cp", "/w/docker-cp.dir", "/img/docker-cp"
	from := t.TempDir()
	for name, size := range map[string]int{"file": 4321, "dir/a": 100, "dir/sub/b": 5000} {
		path := filepath.Join(from, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, filler(size), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	before := walkLayer(t, st.b.upper)
	for _, to := range []string{file, over} {
		dockerCLI(t, "cp", filepath.Join(from, "file"), st.b.name+":"+to)
	}
	dockerCLI(t, "cp", filepath.Join(from, "dir"), st.b.name+":"+dir)
	settle(t, st.b.upper)
	after := walkLayer(t, st.b.upper)
	st.until(seenLimit, "what was copied", func(v *view) error {
		for path, want := range map[string]total{
			file: {size: 4321, disk: 8192}, over: {size: 4321, disk: 8192}, dir: {disk: 4096},
			dir + "/a": {size: 100, disk: 4096}, dir + "/sub": {disk: 4096}, dir + "/sub/b": {size: 5000, disk: 8192},
		} {
			on := func(g *growth) bool { return st.b.of(g) && g.path() == path }
			got := v.sum(on)
			if !st.ext4 {
				want.disk = after.diskSince(before, []string{path})
			}
			others := v.sum(func(g *growth) bool {
				return on(g) && (g.Process == nil && (st.exact || g.SizeGrowth != 0) || g.Process != nil && g.Process.ContainerID != "")
			})
			if got.size != want.size || st.exact && got.disk != want.disk || others.records != 0 {
				return fmt.Errorf("%s grew by %d and %d, want %d and %d, by a process of the host:\n%s", path, got.size, got.disk, want.size, want.disk, v.linesOf(on))
			}
		}
		return nil
	})
}
