//go:build linux

package e2e

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// programs are what TestPrograms lets real programs do. Each changes the layer in
// directories of its own: roots.
var programs = []struct {
	name  string
	roots []string
	by    []string // the names of all the processes that change something there
	play  func(t *testing.T, st *stage)
}{
	{"fio", []string{"/srv/fio"}, []string{"fio"}, runFio},
	{"sqlite-journal", []string{"/srv/journal"}, []string{"sqlite3"}, func(t *testing.T, st *stage) { runSQLite(t, st, "journal", "DELETE") }},
	{"sqlite-wal", []string{"/srv/wal"}, []string{"sqlite3"}, func(t *testing.T, st *stage) { runSQLite(t, st, "wal", "WAL") }},
	{"tar", []string{"/srv/tar"}, []string{"gzip", "tar"}, runTar},
	{"dpkg", []string{"/opt", "/var/lib/dpkg"}, []string{"acme.postinst", "dpkg", "dpkg-deb", "rm", "tar"}, runDpkg},
	{"logrotate", []string{"/var/log/app", "/var/lib/logrotate"}, []string{"gzip", "logger", "logrotate"}, runLogrotate},
	{"nested-overlay", []string{"/srv/nested"}, nil, nestOverlays},
	{"nested-in-layer", []string{"/srv/disk"}, []string{"disk-maker", "mkfs.ext4"}, nestInLayer},
}

// TestPrograms: programs as people use them. Whatever they do to their files, every
// byte of it is theirs.
func TestPrograms(t *testing.T) {
	importPrograms(t)
	b := newBoxWith(t, boxOptions{image: programsImage, binds: hostLibraries, privileged: true})
	roots := "mkdir parents=1 path=/srv/tar/out then mkdir parents=1 path=/srv/nested/merged then mkdir path=/srv/nested/upper then mkdir path=/srv/nested/work"
	for _, p := range programs {
		for _, root := range p.roots {
			roots += " then mkdir parents=1 path=" + root
		}
	}
	b.run(t, "prep", fields(roots)...)
	b.before = walkLayer(t, b.upper)
	st := &stage{session: watch(t, b.name), b: b, ext4: b.upperIsExt4(t), exact: b.exactDisk(t)}
	for _, p := range programs {
		t.Run(p.name, func(t *testing.T) {
			defer st.in(t)()
			p.play(t, st)
			// After this the disk use of what was written changes no more.
			settle(t, b.upper)
			now := walkLayer(t, b.upper)
			st.until(seenLimit, "the processes are charged with all that is there", func(v *view) error {
				return st.checkRoots(v, now, p.roots, p.by)
			})
		})
	}
	t.Run("totals", func(t *testing.T) {
		defer st.in(t)()
		st.quiet(b)
	})
}

// checkRoots requires that the growth of all that is below roots adds up to what
// became of it on the disk, and that each of these processes, and no other, is
// charged with a part of it.
func (st *stage) checkRoots(v *view, now *layerWalk, roots, by []string) error {
	below := func(path string) bool {
		return slices.ContainsFunc(roots, func(root string) bool { return strings.HasPrefix(path, root+"/") })
	}
	var want total
	for sign, w := range map[int64]*layerWalk{-1: st.b.before, 1: now} {
		for _, n := range w.inodes {
			if below(n.paths[0]) {
				want.size += sign * n.size
				want.disk += sign * n.disk
			}
		}
	}
	mine := func(g *growth) bool { return st.b.of(g) && below(g.path()) }
	got := v.sum(mine)
	if got.size != want.size || st.exact && got.disk != want.disk {
		return fmt.Errorf("size %d, disk %d; want %d and %d:\n%s", got.size, got.disk, want.size, want.disk, v.linesOf(mine))
	}
	names := map[string]bool{}
	for i := range v.growth {
		g := &v.growth[i]
		if mine(g) && (g.SizeGrowth != 0 || g.WrittenBytes != 0 || st.exact && g.DiskGrowth != 0) {
			names[g.process()] = true
		}
	}
	seen := slices.Sorted(maps.Keys(names))
	others := slices.ContainsFunc(seen, func(name string) bool { return !slices.Contains(by, name) })
	// Who made a directory only is charged with disk, and elsewhere it may take none.
	if others || st.ext4 && len(seen) != len(by) {
		return fmt.Errorf("charged are %q, want %q:\n%s", seen, by, v.linesOf(mine))
	}
	return nil
}

// How fio's engines are used: those that write to files of a file system, each
// with what is special about it.
var fioEngines = map[string]string{
	"sync": "rw=randwrite", "psync": "rw=randwrite\nfsync=4", "vsync": "iodepth=4", "pvsync": "direct=1", "pvsync2": "rw=randwrite\nsync=dsync",
	"mmap": "rw=randwrite", "posixaio": "iodepth=4", "libaio": "direct=1\niodepth=4", "io_uring": "rw=randwrite\niodepth=4\nfixedbufs=1",
	"splice": "", "falloc": "fallocate=none", "ftruncate": "fallocate=none",
	"filecreate": "nrfiles=20", "filestat": "nrfiles=5", "filedelete": "nrfiles=20",
}

// fioOthers are engines that cannot write to a file of an overlay.
var fioOthers = []string{
	// They write nothing,
	"cpuio", "null", "exec",
	// or to the network,
	"net", "netsplice", "rdma", "nbd", "rados", "rbd", "http", "nfs", "gfapi", "gfapi_async", "libhdfs",
	// or to devices and to persistent memory,
	"mtd", "sg", "dev-dax", "io_uring_cmd", "libblkio", "xnvme", "libpmem", "pmemblk",
	// or ask ext4 itself to do it.
	"e4defrag",
}

func runFio(t *testing.T, st *stage) {
	const size = 256 << 10
	jobs := "[global]\ndirectory=/srv/fio\nsize=256k\nbs=16k\nrw=write\n"
	has := strings.Fields(st.b.tool(t, "/usr/bin/fio", "--enghelp"))
	for _, engine := range has[slices.Index(has, "engines:")+1:] {
		how, used := fioEngines[engine]
		if !hasDirect(t) {
			how = strings.Replace(how, "direct=1", "direct=0", 1)
		}
		if used {
			jobs += fmt.Sprintf("[%s]\nioengine=%[1]s\n%s\n", engine, how)
		} else if !slices.Contains(fioOthers, engine) {
			t.Errorf("fio has an engine that this test does not know: %q", engine)
		}
	}
	for engine := range fioEngines {
		if !slices.Contains(has, engine) {
			t.Errorf("fio lacks the engine %q: %q", engine, has)
		}
	}
	if err := os.WriteFile(filepath.Join(st.b.ctl, "jobs"), []byte(jobs), 0o644); err != nil {
		t.Fatal(err)
	}
	st.b.tool(t, "/usr/bin/fio", "--output=/run/fio.log", "--eta=never", "/ctl/jobs")
	for engine := range fioEngines {
		if strings.HasPrefix(engine, "file") || engine == "ftruncate" {
			continue
		}
		path := "/srv/fio/" + engine + ".0.0"
		st.until(seenLimit, "what the engine did", func(v *view) error { return grownAt(v, st.b, "fio", path, size) })
	}
}

// runSQLite fills a database, changes and deletes a part of it, and compacts it.
func runSQLite(t *testing.T, st *stage, dir, mode string) {
	st.b.tool(t, "/usr/bin/sqlite3", "/srv/"+dir+"/base.db", "PRAGMA journal_mode="+mode+`;
		CREATE TABLE rows(number INTEGER PRIMARY KEY, text);
		WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n WHERE i<2000) INSERT INTO rows SELECT i, hex(randomblob(50)) FROM n;
		UPDATE rows SET text = text || text WHERE number % 3 = 0;
		DELETE FROM rows WHERE number % 2 = 0;
		CREATE INDEX texts ON rows(text);
		VACUUM;`)
}

// runTar packs a tree, packs that by gzip, and unpacks it again.
func runTar(t *testing.T, st *stage) {
	st.b.tool(t, "/usr/bin/tar", "-cf", "/srv/tar/tree.tar", "-C", "/usr/share", "tree")
	st.b.tool(t, "/usr/bin/gzip", "-9", "/srv/tar/tree.tar")
	st.b.tool(t, "/usr/bin/tar", "-xzf", "/srv/tar/tree.tar.gz", "-C", "/srv/tar/out")
	st.until(seenLimit, "what was unpacked", func(v *view) error {
		got := v.sum(func(g *growth) bool {
			return st.b.of(g) && g.process() == "tar" && strings.HasPrefix(g.path(), "/srv/tar/out/")
		})
		if got.size != treeTotal() {
			return fmt.Errorf("%d bytes, want %d", got.size, treeTotal())
		}
		return nil
	})
}

// runDpkg installs a package, installs a later version over it, and removes it.
func runDpkg(t *testing.T, st *stage) {
	for version, size := range map[string]int{"1": 50_000, "2": 70_000} {
		root := filepath.Join(t.TempDir(), "package")
		for name, content := range map[string]string{
			"DEBIAN/control":       "Package: acme\nVersion: " + version + "\nArchitecture: all\nMaintainer: Nobody <nobody@localhost>\nDescription: something to install\n",
			"DEBIAN/postinst":      "#!/bin/sh\necho configured > /opt/acme/configured\n",
			"DEBIAN/postrm":        "#!/bin/sh\ncase $1 in remove) rm -rf /opt/acme ;; esac\n",
			"opt/acme/lib/data":    string(filler(size)),
			"opt/acme/v" + version: version,
		} {
			path := filepath.Join(root, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if out, err := exec.CommandContext(t.Context(), "dpkg-deb", "-Znone", "--root-owner-group", "--build", root, filepath.Join(st.b.ctl, "acme-"+version+".deb")).CombinedOutput(); err != nil {
			t.Fatalf("building a package: %v\n%s", err, out)
		}
	}
	data := func(size int64) {
		t.Helper()
		st.until(seenLimit, "the package's file", func(v *view) error {
			got := v.sum(func(g *growth) bool {
				return st.b.of(g) && g.process() == "dpkg" && strings.HasPrefix(g.path(), "/opt/acme/lib/data")
			})
			if got.size != size {
				return fmt.Errorf("dpkg made it grow by %d, want %d", got.size, size)
			}
			return nil
		})
	}
	st.b.tool(t, "/usr/bin/dpkg", "--install", "/ctl/acme-1.deb")
	data(50_000)
	st.b.tool(t, "/usr/bin/dpkg", "--install", "/ctl/acme-2.deb")
	data(70_000)
	st.b.tool(t, "/usr/bin/dpkg", "--remove", "acme")
	data(0)
}

// runLogrotate rotates logs that a process keeps open: by copying and truncating,
// by renaming and making a new one, and by renaming and compressing.
func runLogrotate(t *testing.T, st *stage) {
	const dir = "/var/log/app/"
	logger := st.b.spawn(t, "logger", fields(strings.ReplaceAll(`
		keep flags=append path=DIRcopied then keptwrite path=DIRcopied size=20000 then
		keep flags=append path=DIRmoved then keptwrite path=DIRmoved size=30000 then
		write path=DIRpacked size=40000 then wait then
		keptwrite path=DIRcopied size=3000 then keptwrite path=DIRmoved size=500 then wait`, "DIR", dir))...)
	logger.until(t, "waiting")
	check := func(what string, want map[string]map[string]int64) {
		t.Helper()
		st.until(seenLimit, what, func(v *view) error {
			for name, paths := range want {
				for path, size := range paths {
					if err := grownAt(v, st.b, name, dir+path, size); err != nil {
						return err
					}
				}
			}
			return nil
		})
	}
	// Each log under its first name, before it gets another.
	check("the logs", map[string]map[string]int64{"logger": {"copied": 20_000, "moved": 30_000, "packed": 40_000}})
	config := ""
	for log, options := range map[string]string{"copied": "copytruncate", "moved": "create", "packed": "create\ncompress"} {
		config += dir + log + " {\nrotate 2\n" + options + "\n}\n"
	}
	if err := os.WriteFile(filepath.Join(st.b.ctl, "logrotate.conf"), []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	rotate := func() {
		t.Helper()
		st.b.tool(t, "/usr/sbin/logrotate", "--force", "--state", "/var/lib/logrotate/status", "/ctl/logrotate.conf")
	}
	rotate()
	logger.resume(t)
	logger.until(t, "waiting")
	check("the first rotation", map[string]map[string]int64{
		"logrotate": {"copied": -20_000, "copied.1": 20_000, "moved": 0, "moved.1": 0, "packed.1": -40_000},
		// What is written after a file was moved is written to the file of the new name.
		"logger": {"copied": 23_000, "moved": 30_000, "moved.1": 500, "packed": 40_000},
	})
	rotate()
	logger.resume(t)
	logger.finish(t)
	check("the second rotation", map[string]map[string]int64{
		"logrotate": {"copied": -23_000, "copied.1": 23_000},
	})
}

// nestOverlays mounts overlays inside of the container, as a container runtime in
// there would. Their layers are not the container's.
func nestOverlays(t *testing.T, st *stage) {
	for name, layers := range map[string]string{"nested-tmpfs": "/run", "nested-volume": "/data"} {
		st.b.run(t, name, fields(strings.NewReplacer("LAYERS", layers, "MERGED", "/srv/nested/merged").Replace(`
			mkdir path=LAYERS/upper then mkdir path=LAYERS/work then
			mount path=MERGED lower=/usr/share/tree upper=LAYERS/upper work=LAYERS/work then
			write path=MERGED/new size=5000 then append path=MERGED/f00 size=100 then chmod path=MERGED/f01 then
			unlink path=MERGED/f02 then mkdir path=MERGED/dir then rename from=MERGED/new path=MERGED/dir/new then unmount path=MERGED`))...)
	}
	// The kernel takes no overlay as the upper directory of another.
	st.b.run(t, "nested-refused", fields("mount path=/srv/nested/merged lower=/usr/share/tree upper=/srv/nested/upper work=/srv/nested/work errno=EINVAL")...)
	st.mark(t)
	nested := func(g *growth) bool { return st.b.of(g) && strings.HasPrefix(g.process(), "nested-") }
	if st.sum(nested).records != 0 {
		t.Errorf("the layer is charged with what is not its own:\n%s", st.linesOf(nested))
	}
}

// nestInLayer mounts an overlay on a file system that lies in a file of the layer.
// What is written there makes the file grow, by the hands of the kernel's threads: it
// is on account of who was the last to write to it.
func nestInLayer(t *testing.T, st *stage) {
	const image = "/srv/disk/image"
	st.b.run(t, "disk-maker", "ftruncate", "path="+image, fmt.Sprintf("size=%d", 64*mib))
	host := func(name string, args ...string) {
		t.Helper()
		if out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s %q: %v\n%s", name, args, err, out)
		}
	}
	dir := t.TempDir()
	disk, merged := filepath.Join(dir, "disk"), filepath.Join(dir, "merged")
	for _, d := range []string{disk, merged} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	host("mkfs.ext4", "-q", "-F", st.b.inside(image))
	host("modprobe", "loop")
	host("mount", "-o", "loop", st.b.inside(image), disk)
	t.Cleanup(func() { _ = unix.Unmount(disk, unix.MNT_DETACH) })
	before, allocated := st.stat(t, image)
	hostRun(t, "nested-disk", fields(strings.NewReplacer("DISK", disk, "MERGED", merged).Replace(fmt.Sprintf(`
		mkdir path=DISK/lower then mkdir path=DISK/upper then mkdir path=DISK/work then
		mount path=MERGED lower=DISK/lower upper=DISK/upper work=DISK/work then
		write path=MERGED/new size=%d then sync path=MERGED/new then unmount path=MERGED`, 5*mib)))...)
	host("umount", disk)
	size, now := st.stat(t, image)
	if size != before || now-allocated < 5*mib {
		t.Errorf("this test is wrong: the file with the file system grew by %d and %d", size-before, now-allocated)
	}
	if nested := func(g *growth) bool { return st.b.of(g) && g.process() == "nested-disk" }; st.sum(nested).records != 0 {
		t.Errorf("the layer is charged to who has not written to it:\n%s", st.linesOf(nested))
	}
}
