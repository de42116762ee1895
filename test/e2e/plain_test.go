//go:build linux

package e2e

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/internal/record"
)

// driverDaemon is a Docker daemon besides the usual one.
type driverDaemon struct {
	root string // its data
	api  *dockerAPI
	host string // as in DOCKER_HOST
	base string // all of its files
	log  string
	cmd  *exec.Cmd
}

// plainDaemon is that of the tests of plain directories, once the first of them has
// started it: under emulation that takes long.
var plainDaemon *driverDaemon

// usePlainDaemon makes it the one that boxes are made by, until the test ends.
func usePlainDaemon(t *testing.T, driver string) *driverDaemon {
	t.Helper()
	made := plainDaemon != nil
	if !made {
		plainDaemon = startDaemon(t, driver)
	}
	plainDaemon.use(t)
	if !made {
		if err := importFiles(); err != nil {
			t.Fatal(err)
		}
	}
	return plainDaemon
}

// use makes it the one that boxes are made by, until the test ends.
func (d *driverDaemon) use(t *testing.T) {
	t.Helper()
	before := env.docker
	t.Setenv("DOCKER_HOST", d.host)
	env.docker = d.api
	t.Cleanup(func() { env.docker = before })
}

// startDaemon starts a daemon with this storage driver. Whoever does stops it.
func startDaemon(t *testing.T, driver string) *driverDaemon {
	t.Helper()
	base, err := os.MkdirTemp("/scratch", "dockerd")
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(base, "socket")
	d := &driverDaemon{
		root: filepath.Join(base, "data"), host: "unix://" + socket, api: dockerAt(socket),
		base: base, log: filepath.Join(base, "log"),
	}
	settings := filepath.Join(base, "daemon.json")
	if err := os.WriteFile(settings, []byte("{}"), 0o644); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(d.log)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	d.cmd = exec.Command("dockerd", "--config-file", settings, "--host", d.host, "--storage-driver", driver,
		"--data-root", d.root, "--exec-root", filepath.Join(base, "exec"), "--pidfile", filepath.Join(base, "pid"),
		"--bridge", "none", "--iptables=false", "--ip6tables=false")
	d.cmd.Stdout, d.cmd.Stderr = log, log
	if path, err := exec.LookPath("dockerd"); err == nil { // its libraries, where test/vm/fetch has put them
		d.cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+filepath.Join(filepath.Dir(filepath.Dir(path)), "lib"))
	}
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	d.answers(t, 120*time.Second)
	return d
}

// answers waits until the daemon does.
func (d *driverDaemon) answers(t *testing.T, limit time.Duration) {
	t.Helper()
	t.Cleanup(func() {
		if t.Failed() {
			said, _ := os.ReadFile(d.log)
			t.Logf("the daemon said:\n%s", tail(string(said), 30))
		}
	})
	eventually(t, limit, "the daemon at "+d.host+" answers", func() error { return d.api.do("GET", "/_ping", nil, nil) })
}

// stop ends the daemon and removes what it had.
func (d *driverDaemon) stop() {
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	_ = d.cmd.Wait()
	_ = os.RemoveAll(d.base)
}

// plainDriver is a storage driver that makes layers which are plain directories, and
// where in its own it keeps them: the one for the file system of /scratch.
func plainDriver(t *testing.T) (driver, dir string) {
	t.Helper()
	needPlain(t)
	if fileSystem(t, "/scratch") == unix.BTRFS_SUPER_MAGIC {
		return "btrfs", "subvolumes"
	}
	return "vfs", "dir"
}

// needPlain skips the test where there are no hooks for a directory without an overlay.
func needPlain(t *testing.T) {
	t.Helper()
	if fileSystem(t, "/scratch") == unix.TMPFS_MAGIC {
		t.Skip("n/a: no hooks for a directory on tmpfs without an overlay")
	}
	if modules, _ := filepath.Glob("/sys/kernel/btf/*"); len(modules) < 2 {
		t.Skip("n/a: the file system's module has no BTF")
	}
}

// TestPlain: with Docker's vfs driver a layer is a copy of the image, with btrfs a
// snapshot; what happens to it is accounted for as exactly as below overlayfs.
func TestPlain(t *testing.T) {
	driver, dir := plainDriver(t)
	d := usePlainDaemon(t, driver)
	b := newBox(t)
	mountID, err := os.ReadFile(filepath.Join(d.root, "image", driver, "layerdb/mounts", b.id, "mount-id"))
	if err != nil || b.upper != filepath.Join(d.root, driver, dir, string(mountID)) {
		t.Fatalf("the layer is at %s; Docker's books say %s, %v", b.upper, mountID, err)
	}
	b.before = walkLayer(t, b.upper)
	s := watch(t, "--include-mounts", b.name)
	b.playCgroups(t)

	// What becomes of each file, by the process that it is the work of.
	ways := []struct {
		name, line string
		want       total
		cause      string
	}{
		{"v-write", "write path=/w/v size=5000 chunk=1000", total{size: 5000, written: 5000}, "write"},
		{"v-over", "overwrite path=/w/v size=5000", total{written: 5000}, "write"},
		{"v-image", "append path=/img/append size=100", total{size: 100, written: 100}, "write"},
		{"v-chown", "chown path=/img/chown uid=1 gid=1", total{}, ""},
		{"v-truncate", "truncate path=/img/truncate size=10", total{size: 10 - img("truncate")}, "truncate"},
		{"v-unlink", "unlink path=/img/unlink", total{size: -img("unlink")}, "delete"},
		{"v-rename", "rename from=/img/rename path=/img/over", total{size: -img("over")}, "rename"},
		{"v-link", "link from=/img/link path=/w/linked", total{}, "create"},
		{"v-tmpfile", "tmpfile dir=/w path=/w/named size=3000", total{size: 3000, written: 3000}, "create"},
		{"v-symlink", "symlink target=0123456789 path=/w/symlink", total{size: 10}, "create"},
		{"v-fallocate", "fallocate path=/w/f size=65536", total{size: 65536}, "allocate"},
		{"v-volume", "append path=/data/v size=7000", total{}, ""},
	}
	for _, way := range ways {
		b.run(t, way.name, fields(way.line)...)
	}
	check := func(v *view) error {
		for _, way := range ways {
			got := v.by(b, way.name)
			if got.size != way.want.size || got.written != way.want.written || way.cause != "" && !strings.Contains(strings.Join(got.causes, " "), way.cause) {
				return fmt.Errorf("%s (%s): size %d, written %d, causes %v; want %d, %d, %s:\n%s", way.name, way.line, got.size, got.written, got.causes,
					way.want.size, way.want.written, way.cause, v.linesOf(func(g *growth) bool { return g.process() == way.name }))
			}
		}
		return b.checkCgroups(v)
	}
	s.until(seenLimit, "each way with its process", check)
	event, err := s.event(b, "found")
	if err != nil || event.UpperDir != b.upper || event.Driver != driver {
		t.Errorf("the container is told of as %+v (%v)", event, err)
	}
	b.plain = true // Docker's size is a comparison with the image
	s.quiet(b)
	if err := check(&s.view); err != nil {
		t.Errorf("at the end: %v", err)
	}
}

// TestPlainWays goes through those of TestOneWay that do not depend on what overlayfs
// does.
func TestPlainWays(t *testing.T) {
	driver, _ := plainDriver(t)
	usePlainDaemon(t, driver)
	b := newBox(t)
	b.plain = true
	ext4 := b.upperIsExt4(t)
	b.before = walkLayer(t, b.upper)
	s := watch(t, b.name)
	var done []*way
	for _, w := range slices.Concat(waysToWrite, waysToSize, waysToName, waysToMark) {
		if w.name == "mknod-refused" || strings.Contains(w.prep+w.do, "/img/") { // both overlayfs's affair
			continue
		}
		if w.needs == nameless {
			w.needs, w.do = "", strings.ReplaceAll(w.do, " errno=EOPNOTSUPP", "")
		}
		t.Run(w.name, func(t *testing.T) {
			defer s.in(t)()
			w.perform(t, b, ext4)
			done = append(done, &w)
			s.until(seenLimit, "the process is charged with what it did", func(v *view) error { return w.check(v, b, ext4) })
		})
	}
	st := &stage{session: s, b: b, ext4: ext4, exact: b.exactDisk(t)}
	plays := map[string]func(*testing.T, *stage){
		"deleted-open": deletedOpen, "race-truncating": raceTruncating, "race-renaming": raceRenaming,
	}
	if driver != "btrfs" { // there sizes are read only after the inode's lock was let go of
		plays["race-appending"] = raceAppending
	}
	for name, play := range plays {
		t.Run(name, func(t *testing.T) {
			defer s.in(t)()
			play(t, st)
		})
	}
	s.quiet(b)
	for _, w := range done {
		if err := w.check(&s.view, b, ext4); err != nil {
			t.Errorf("%s at the end: %v", w.name, err)
		}
	}
}

// TestFuseOverlayfs: where a process makes the overlay, each byte is in the books, as
// that process's.
func TestFuseOverlayfs(t *testing.T) {
	needPlain(t)
	const driver = "fuse-overlayfs"
	command(t, "modprobe", "fuse")
	d := startDaemon(t, driver)
	t.Cleanup(d.stop)
	d.use(t)
	if err := importFiles(); err != nil {
		t.Fatal(err)
	}
	b := newBox(t)
	b.plain, b.fuse = true, true // Docker finds its size by comparing with the image
	b.before = walkLayer(t, b.upper)
	s := watch(t, b.name)
	if s.session.Coverage != "partial" || len(s.session.Reasons) != 1 || !strings.Contains(s.session.Reasons[0], driver) {
		t.Errorf("coverage is %s: %v", s.session.Coverage, s.session.Reasons)
	}
	for i, line := range []string{
		"write path=/w/f size=5000 chunk=1000", "append path=/img/append size=100", "overwrite path=/w/f size=5000",
		"mkdir path=/w/d", "create path=/w/d/e", "rename from=/w/f path=/w/d/f", "chown path=/img/chown uid=1 gid=1",
		"truncate path=/img/truncate size=10", "unlink path=/img/unlink", "rename from=/img/rename path=/img/over",
		"link from=/img/link path=/w/linked", "symlink target=0123456789 path=/w/symlink", "append path=/data/v size=7000",
		"write path=/w/gone size=70000", "unlink path=/w/gone",
	} {
		b.run(t, fmt.Sprintf("f-%d", i), fields(line)...)
	}
	s.until(seenLimit, "what was written", func(v *view) error {
		on := func(g *growth) bool { return b.of(g) && (g.File.Path == "/w/f" || g.File.Path == "/w/d/f") }
		if got := v.sum(on); got.size != 5000 || got.written != 10000 {
			return fmt.Errorf("/w/f, then /w/d/f: %+v, want 5000 bytes, and written twice\n%s", got, v.linesOf(on))
		}
		return nil
	})
	s.quiet(b)
	for i := range s.growth {
		if g := &s.growth[i]; b.of(g) && g.process() != driver {
			t.Errorf("not by %s: %s", driver, g.line)
		}
	}
	if e, err := s.event(b, "found"); err != nil || e.UpperDir != b.upper || e.Driver != driver {
		t.Errorf("the container is told of as %+v (%v)", e, err)
	}
}

// TestPlainLife: a container that is created later is watched until its removal, which
// is no growth.
func TestPlainLife(t *testing.T) {
	driver, _ := plainDriver(t)
	usePlainDaemon(t, driver)
	s := watch(t, "--all")
	b := newBox(t)
	// What is written before the baseline is taken may be part of it.
	s.until(seenLimit, "the baseline", func(v *view) error { _, err := v.lastLayer(b); return err })
	b.run(t, "v-write", fields("write path=/w/v size=5000")...)
	s.until(seenLimit, "the write", func(v *view) error { return grown(v, b, "v-write", 5000) })
	env.docker.must(t, http.MethodPost, "/containers/"+b.id+"/stop?t=0", nil, nil)
	s.until(seenLimit, "the stop", func(v *view) error { _, err := v.event(b, record.ContainerStopped); return err })
	env.docker.must(t, http.MethodDelete, "/containers/"+b.id, nil, nil)
	var removed record.ContainerEvent
	s.until(seenLimit, "the removal", func(v *view) (err error) {
		removed, err = v.event(b, record.ContainerRemoved)
		return err
	})
	s.stop()
	if removed.LostSize == nil || *removed.LostSize < blobSize+5000 {
		t.Errorf("lost with the container: %+v", removed)
	}
	for i := range s.growth {
		if g := &s.growth[i]; b.of(g) && g.SizeGrowth < 0 {
			t.Errorf("its removal is told of as growth: %s", g.line)
		}
	}
	if s.session.Coverage != "full" {
		t.Errorf("coverage is %s: %v", s.session.Coverage, s.session.Reasons)
	}
}
