//go:build linux

package e2e

import (
	"archive/tar"
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/internal/record"
)

// What /img/sed holds, and what sed makes of it.
var (
	sedBefore = strings.Repeat("alpha beta gamma\n", 200)
	sedAfter  = strings.ReplaceAll(sedBefore, "alpha", "alphabet")
)

// expected is size growth by process name and path. A path of the form "a|b" is
// either: the file changed its name within the test.
type expected map[string]map[string]int64

// check compares all growth of the box's layer with what is expected, so that a
// byte given to anyone or anything else is a failure too.
func (want expected) check(v *view, b *box) error {
	got := map[string]map[string]int64{}
	for i := range v.growth {
		g := &v.growth[i]
		if !b.of(g) || g.SizeGrowth == 0 {
			continue
		}
		name := g.process()
		if g.Process != nil && g.Process.ContainerID == "" {
			name = "host:" + name
		}
		if got[name] == nil {
			got[name] = map[string]int64{}
		}
		got[name][g.path()] += g.SizeGrowth
	}
	var problems []string
	for _, name := range slices.Sorted(maps.Keys(want)) {
		wantSum, gotSum := int64(0), int64(0)
		for path, size := range want[name] {
			sum := int64(0)
			for p := range strings.SplitSeq(path, "|") {
				sum += got[name][p]
				delete(got[name], p)
			}
			wantSum += size
			gotSum += sum
			if sum != size {
				problems = append(problems, fmt.Sprintf("%s grew %s by %d, want %d", name, path, sum, size))
			}
		}
		for path, sum := range got[name] {
			gotSum += sum
			if sum != 0 {
				problems = append(problems, fmt.Sprintf("%s grew %s by %d, want nothing", name, path, sum))
			}
		}
		if gotSum != wantSum {
			problems = append(problems, fmt.Sprintf("%s grew the layer by %d in all, want %d", name, gotSum, wantSum))
		}
		delete(got, name)
	}
	for name, paths := range got {
		for path, sum := range paths {
			if sum != 0 {
				problems = append(problems, fmt.Sprintf("%s grew %s by %d: nobody of that name was at work", name, path, sum))
			}
		}
	}
	if problems == nil {
		return nil
	}
	slices.Sort(problems)
	return fmt.Errorf("\n\t%s", strings.Join(problems, "\n\t"))
}

// TestAcceptance is the product's promise: several processes write in every
// ordinary way, inside and outside of the layer, and each is charged with its
// bytes and no others.
func TestAcceptance(t *testing.T) {
	b := newBox(t)
	writeTar(t, filepath.Join(b.ctl, "in.tar"))
	b.before = walkLayer(t, b.upper)
	s := watch(t, b.name)

	// Three services, at the same time.
	appender := b.spawn(t, "appender", fields(`
		append path=/var/log/app.log size=100000 chunk=1000 then
		write path=/var/lib/db size=65536 then
		rewrite path=/var/lib/db size=4096 count=51 then
		create path=/var/lib/sparse then truncate path=/var/lib/sparse size=1048576 then
		write path=/var/lib/shrunk size=50000 then truncate path=/var/lib/shrunk size=20000 then
		mkdir path=/srv/new/a/b/c parents=1 then write path=/srv/new/a/b/c/leaf size=777 then
		wait`)...)
	cacher := b.spawn(t, "cacher", fields(`
		mkdir path=/var/cache/c then `+repeated(20, "write path=/var/cache/c/%d size=3000 then ")+
		repeated(5, "unlink path=/var/cache/c/%d then ")+`
		symlink target=/var/cache/c/9 path=/var/cache/short then
		symlink target=/`+strings.Repeat("very-long-target/", 10)+` path=/var/cache/long then
		link from=/var/cache/c/9 path=/var/cache/hard then
		chown path=/usr/share/tree recurse=1 then
		wait`)...)
	shipper := b.spawn(t, "shipper", fields(`
		append path=/data/shipped size=500000 chunk=5000 then
		write path=/run/spool size=200000 then
		mkdir path=/data/dir then write path=/data/dir/file size=12345 then unlink path=/data/shipped then
		wait`)...)

	// Programs that people use.
	b.run(t, "prep", fields(`write path=/srv/victim size=5000 then write path=/srv/fresh size=1200 then write path=/srv/old size=3000 then write path=/srv/cut size=40000`)...)
	b.tool(t, "/bin/dd", "if=/dev/zero", "of=/srv/dd", "bs=1000", "count=37")
	b.tool(t, "/bin/cp", "/usr/share/data/blob", "/srv/copy")
	b.tool(t, "/bin/sed", "-i", "s/alpha/alphabet/", "/img/sed")
	b.tool(t, "/bin/tar", "xf", "/ctl/in.tar", "-C", "/srv")
	b.tool(t, "/bin/mv", "/srv/fresh", "/srv/victim")
	b.tool(t, "/bin/rm", "/srv/old", "/img/unlink")
	b.tool(t, "/bin/truncate", "-s", "10000", "/srv/cut")
	b.tool(t, "/bin/chmod", "600", "/img/chmod")
	b.tool(t, "/bin/chown", "-R", "9:9", "/img/dir")
	b.tool(t, "/bin/mkdir", "-p", "/srv/p/q/r/s")
	b.tool(t, "/bin/ln", "-s", "/nowhere", "/srv/p/link")

	// From outside of the container, and by docker exec.
	payload := filepath.Join(t.TempDir(), "payload")
	if err := os.WriteFile(payload, filler(4321), 0o644); err != nil {
		t.Fatal(err)
	}
	dockerCLI(t, "cp", payload, b.name+":/srv/copied-in")
	hostRun(t, "hostwriter", "write", "path="+b.inside("/srv/from-host"), "size=2222")
	dockerCLI(t, "exec", b.name, "/bin/sh", "-c", "echo hello >> /srv/exec.log")

	for _, p := range []*proc{appender, cacher, shipper} {
		p.until(t, "waiting")
	}
	want := expected{
		"appender": {
			"/var/log/app.log": 100_000, "/var/lib/db": 65_536, "/var/lib/sparse": 1_048_576,
			"/var/lib/shrunk": 20_000, "/srv/new/a/b/c/leaf": 777,
		},
		"cacher": {"/var/cache/short": 14, "/var/cache/long": 171},
		// Two files carried the name /srv/victim; together they must be right.
		"prep":            {"/srv/victim|/srv/fresh": 6200, "/srv/old": 3000, "/srv/cut": 40_000},
		"dd":              {"/srv/dd": 37_000},
		"cp":              {"/srv/copy": blobSize},
		"tar":             {"/srv/t/one": 1111, "/srv/t/two": 2222, "/srv/t/sub/three": 3333},
		"mv":              {"/srv/victim": -5000},
		"rm":              {"/srv/old": -3000},
		"truncate":        {"/srv/cut": -30_000},
		"chmod":           {"/img/chmod": int64(imageFiles["chmod"])},
		"chown":           {"/img/dir/f0": 100, "/img/dir/f1": 100, "/img/dir/f2": 100},
		"ln":              {"/srv/p/link": 8},
		"sh":              {"/srv/exec.log": 6},
		"host:hostwriter": {"/srv/from-host": 2222},
	}
	for i := 5; i < 20; i++ {
		want["cacher"][fmt.Sprintf("/var/cache/c/%d", i)] = 3000
	}
	// A hard link's records may carry any of its names.
	delete(want["cacher"], "/var/cache/c/9")
	want["cacher"]["/var/cache/c/9|/var/cache/hard"] = 3000
	for i := range treeFiles {
		dir := "/usr/share/tree/"
		if i%2 == 1 {
			dir += "sub/"
		}
		want["cacher"][fmt.Sprintf("%sf%02d", dir, i)] = int64(treeSize + i)
	}
	// sed writes a temporary file, whose name it chooses, and renames it.
	checkSed := func(v *view) error {
		if got := v.by(b, "sed"); got.size != int64(len(sedAfter)) || got.written != uint64(len(sedAfter)) {
			return fmt.Errorf("sed grew the layer by %d and wrote %d, want %d:\n%s", got.size, got.written, len(sedAfter), v.linesOf(func(g *growth) bool { return b.of(g) && g.process() == "sed" }))
		}
		return nil
	}
	// docker cp is done by some process of the daemon's: by whom is Docker's affair.
	checkCopied := func(v *view) error {
		copied := func(g *growth) bool { return b.of(g) && g.path() == "/srv/copied-in" }
		got := v.sum(copied)
		inside := v.sum(func(g *growth) bool { return copied(g) && g.Process != nil && g.Process.ContainerID != "" })
		if got.size != 4321 || inside.records != 0 {
			return fmt.Errorf("docker cp grew /srv/copied-in by %d, want 4321, and by no process inside a container:\n%s", got.size, v.linesOf(copied))
		}
		return nil
	}
	check := func(v *view) error {
		if err := checkSed(v); err != nil {
			return err
		}
		if err := checkCopied(v); err != nil {
			return err
		}
		// The rest, without those two.
		rest := *v
		rest.growth = slices.DeleteFunc(slices.Clone(v.growth), func(g growth) bool {
			return b.of(&g) && (g.process() == "sed" || g.path() == "/srv/copied-in")
		})
		return want.check(&rest, b)
	}
	// The expectation itself is held against the disk first.
	all := int64(len(sedAfter) + 4321)
	for _, paths := range want {
		for _, size := range paths {
			all += size
		}
	}
	if grew := walkLayer(t, b.upper).size - b.before.size; grew != all {
		t.Fatalf("this test is wrong: the layer's size grew by %d, not by %d", grew, all)
	}
	s.until(seenLimit, "every process is charged with its bytes", check)
	checkActor(t, s, b, "appender")

	for _, p := range []*proc{appender, cacher, shipper} {
		p.resume(t)
		p.finish(t)
	}
	s.quiet(b)
	if err := check(&s.view); err != nil {
		t.Errorf("at the end: %v", err)
	}

	// Bytes written are not growth, and are exact as well.
	for name, written := range map[string]uint64{
		"appender": 100_000 + 65_536 + 51*4096 + 50_000 + 777,
		"cacher":   20 * 3000,
		"dd":       37_000,
		"mv":       0, "rm": 0, "chmod": 0, "chown": 0, "truncate": 0,
	} {
		if got := s.by(b, name); got.written != written {
			t.Errorf("%s wrote %d, want %d:\n%s", name, got.written, written, s.linesOf(func(g *growth) bool { return b.of(g) && g.process() == name }))
		}
	}
	for name, copied := range map[string]int64{"cacher": treeTotal(), "chmod": int64(imageFiles["chmod"]), "chown": 300, "appender": 0} {
		got := s.sum(func(g *growth) bool {
			return b.of(g) && g.process() == name && g.File.Origin != record.OriginDirectory
		})
		if got.copyUp != copied {
			t.Errorf("%s made overlayfs copy up %d bytes of files, want %d", name, got.copyUp, copied)
		}
	}
	// The volume and the tmpfs are no part of the layer, nor of this stream.
	covered := func(g *growth) bool {
		return !g.inLayer() || g.process() == "shipper" || strings.HasPrefix(g.path(), "/data/") || strings.HasPrefix(g.path(), "/run/")
	}
	if n := s.sum(covered); n.records != 0 {
		t.Errorf("records about covered paths:\n%s", s.linesOf(covered))
	}
	for i := range s.growth {
		g := &s.growth[i]
		want := record.Container{ID: b.id, Name: b.name, Image: imageName, Runtime: "docker"}
		if g.Container != want {
			t.Fatalf("container %+v, want %+v:\n%s", g.Container, want, g.line)
		}
	}
	checkFound(t, s, b)
}

// checkActor compares what the stream says of a process that still runs with
// what /proc says.
func checkActor(t *testing.T, s *session, b *box, name string) {
	t.Helper()
	pid := b.hostPID(t, name)
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	// The name, in parentheses, may hold anything; fields are counted after it.
	rest := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	ticks, err := strconv.ParseInt(rest[19], 10, 64)
	if err != nil {
		t.Fatalf("start time in %q: %v", stat, err)
	}
	var boot unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot); err != nil {
		t.Fatal(err)
	}
	started := time.Now().Add(-time.Duration(boot.Nano())).Add(time.Duration(ticks) * 10 * time.Millisecond)
	for i := range s.growth {
		g := &s.growth[i]
		if !b.of(g) || g.process() != name {
			continue
		}
		p := *g.Process
		if p.PID != uint32(pid) || p.ParentPID != uint32(b.pid) || p.ContainerID != b.id || p.Executable != "/bin/workload" || p.Exited {
			t.Errorf("process %+v; want pid %d, parent %d, container %s, executable /bin/workload, not exited:\n%s", p, pid, b.pid, b.id, g.line)
		}
		if d := p.StartTime.Sub(started).Abs(); d > 2*time.Second {
			t.Errorf("process %s started %s, the stream says %s:\n%s", name, started.UTC(), p.StartTime, g.line)
		}
		return
	}
	t.Errorf("no record of a process called %q", name)
}

// checkFound holds the container record against what Docker says.
func checkFound(t *testing.T, s *session, b *box) {
	t.Helper()
	e, err := s.event(b, record.ContainerFound)
	if err != nil {
		t.Error(err)
		return
	}
	if e.UpperDir != b.upper {
		t.Errorf("upper_dir is %q, Docker says %q", e.UpperDir, b.upper)
	}
	if want := env.docker.inspect(t, b.id, false).GraphDriver.Name; e.Driver != want {
		t.Errorf("driver is %q, want %s", e.Driver, want)
	}
	for destination, class := range map[string]string{
		"/data": record.ClassVolume, "/run": record.ClassTmpfs, "/ctl": record.ClassBind,
		"/etc/hosts": record.ClassDockerFile, "/etc/hostname": record.ClassDockerFile, "/etc/resolv.conf": record.ClassDockerFile,
	} {
		i := slices.IndexFunc(e.Mounts, func(m record.Mount) bool { return m.Destination == destination })
		if i < 0 {
			t.Errorf("mount %s is not listed: %+v", destination, e.Mounts)
			continue
		}
		if got := e.Mounts[i]; got.Class != class {
			t.Errorf("mount %s has class %q, want %q", destination, got.Class, class)
		} else if class == record.ClassVolume && got.Name != b.volume {
			t.Errorf("mount %s is volume %q, want %q", destination, got.Name, b.volume)
		}
	}
}

// fields splits the words of a workload's command line.
func fields(text string) []string { return strings.Fields(text) }

// repeated is text for 0, 1, 2 … n-1.
func repeated(n int, text string) string {
	var out strings.Builder
	for i := range n {
		fmt.Fprintf(&out, text, i)
	}
	return out.String()
}

func writeTar(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	tw := tar.NewWriter(f)
	for _, h := range []tar.Header{
		{Typeflag: tar.TypeDir, Name: "t/", Mode: 0o755},
		{Typeflag: tar.TypeReg, Name: "t/one", Mode: 0o644, Size: 1111},
		{Typeflag: tar.TypeReg, Name: "t/two", Mode: 0o644, Size: 2222},
		{Typeflag: tar.TypeDir, Name: "t/sub/", Mode: 0o755},
		{Typeflag: tar.TypeReg, Name: "t/sub/three", Mode: 0o644, Size: 3333},
	} {
		if err := tw.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write(filler(int(h.Size))); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
}
