//go:build linux

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/internal/record"
)

// stage is where the subtests of TestOneWay act: a container and the session that
// watches it.
type stage struct {
	*session
	b     *box
	ext4  bool // whether disk use can be foretold to the block
	exact bool // whether all of it can be attributed
	marks int64
	// passing says that a deleted file's only descriptor is on its way between two
	// processes, where its disk use cannot be looked up.
	passing bool
}

// scenes are what takes more than one process, or has an outcome that cannot be
// foretold and is measured.
var scenes = []struct {
	name string
	play func(t *testing.T, st *stage)
}{
	{"short-of-space", shortOfSpace},
	{"killed-in-a-write", killedInWrite},
	{"interrupted", interruptedCall},
	{"copy-up-killed", copyUpKilled},
	{"copy-up-interrupted", copyUpInterrupted},
	{"written-back-late", writtenBackLate},
	{"cold-caches", coldCaches},
	{"mmap-passed", mapPassed},
	{"mmap-forked", mapForked},
	{"mmap-by-two", mapByTwo},
	{"mmap-killed", mapKilled},
	{"deleted-open", deletedOpen},
	{"deleted-open-by-two", deletedOpenByTwo},
	{"deleted-and-passed", deletedAndPassed},
	{"deleted-but-mapped", deletedButMapped},
	{"replaced-while-open", replacedWhileOpen},
	{"race-appending", raceAppending},
	{"race-truncating", raceTruncating},
	{"race-renaming", raceRenaming},
	{"fork-storm", forkStorm},
	{"made-and-gone", madeAndGone},
	{"pid-reused", pidReused},
	{"inode-reused", inodeReused},
	{"from-the-host", fromTheHost},
	{"through-proc-root", throughProcRoot},
	{"by-nsenter", byNsenter},
	{"docker-exec", dockerExec},
	{"docker-cp", dockerCopy},
}

// mark grows the layer by one byte and returns the layer's record after that: what
// is as it was is not reported otherwise.
func (st *stage) mark(t *testing.T) record.Layer {
	t.Helper()
	const name, path = "marker", "/marker"
	st.b.run(t, name, "append", "path="+path, "size=1")
	st.marks++
	var last record.Layer
	st.until(seenLimit, "the marker", func(v *view) error {
		if err := grownAt(v, st.b, name, path, st.marks); err != nil {
			return err
		}
		var err error
		if last, err = v.lastLayer(st.b); err == nil && last.Seq < v.growth[len(v.growth)-1].Seq {
			err = fmt.Errorf("no layer record after the growth yet")
		}
		return err
	})
	return last
}

// charged is what processes of one name must have done to one path. "a|b" is a
// file that may have been renamed in the same interval.
type charged struct {
	name, path string
	size, disk int64
	written    int64
}

func (st *stage) checkCharged(v *view, all []charged) error {
	for _, c := range all {
		paths := strings.Split(c.path, "|")
		got := v.sum(func(g *growth) bool {
			return st.b.of(g) && g.process() == c.name && slices.Contains(paths, g.path())
		})
		if got.size != c.size || st.exact && got.disk != c.disk || got.written != uint64(c.written) {
			return fmt.Errorf("%s is charged with size %d, disk %d, written %d on %s; want %d, %d, %d:\n%s",
				c.name, got.size, got.disk, got.written, c.path, c.size, c.disk, c.written,
				v.linesOf(func(g *growth) bool {
					return st.b.of(g) && (g.process() == c.name || slices.Contains(paths, g.path()))
				}))
		}
	}
	return nil
}

// require waits until all of them are charged as they must be, after what they have
// written is on the disk.
func (st *stage) require(what string, all ...charged) {
	st.t.Helper()
	settle(st.t, st.b.upper)
	st.until(seenLimit, what, func(v *view) error { return st.checkCharged(v, all) })
}

// stat is what the layer's own file is like once it is on the disk.
func (st *stage) stat(t *testing.T, path string) (size, disk int64) {
	t.Helper()
	settle(t, st.b.upper)
	var got unix.Stat_t
	if err := unix.Lstat(filepath.Join(st.b.upper, path), &got); err != nil {
		t.Fatalf("%s in the layer: %v", path, err)
	}
	return got.Size, got.Blocks * 512
}

// shortOfSpace: the disk fills up. What was allocated, written or copied until
// then counts, and no more.
func shortOfSpace(t *testing.T, st *stage) {
	if onTmpfs(t) {
		t.Log("n/a: it would take the machine's memory")
		return
	}
	const name, remover, full, more, image = "w-space", "w-space-rm", "/w/space", "/w/space.more", "/img/no-space"
	remove := fields("removeall path=" + full + " then removeall path=" + more + " then removeall path=" + image)
	// The other tests need the space, whatever comes of this one.
	defer st.b.run(t, "prep", remove...)
	p := st.b.spawn(t, name, fields(`fallocate kind=fill path=`+full+` errno=ENOSPC then wait then
		fallocate kind=punch path=`+full+` size=65536 then sync kind=filesystem path=`+full+` then write path=`+more+` size=2000000 chunk=10000 errno=ENOSPC then chmod path=`+image+` errno=ENOSPC`)...)
	results := p.until(t, "waiting")
	size, disk := st.stat(t, full)
	if results[0].Errno != "ENOSPC" || size < 100*mib {
		t.Fatalf("this test is wrong: the disk is not full: %v", results)
	}
	st.require("what could be allocated", charged{name, full, size, disk, 0})
	p.resume(t)
	results = append(results, p.finish(t)...)
	t.Logf("%v", results)
	for _, r := range results {
		switch path := string(r.Path); {
		case path == more && (r.Errno != "ENOSPC" || st.ext4 && r.Written == 0):
			t.Errorf("this test is wrong: the write was not cut short: %v", r)
		// Where extents are shared, copying takes none.
		case path == image && r.Errno != "ENOSPC" && st.ext4:
			t.Errorf("this test is wrong: the file was copied up: %v", r)
		}
	}
	var grew, shrunk []charged
	after := walkLayer(t, st.b.upper)
	for _, path := range []string{full, more, image} {
		c := charged{name: name, path: path}
		if _, n := after.find(path); n != nil {
			c.size, c.disk = n.size, n.disk
		}
		for _, r := range results {
			if string(r.Path) == path {
				c.written += r.Written
			}
		}
		grew = append(grew, c)
		shrunk = append(shrunk, charged{name: remover, path: path, size: -c.size, disk: -c.disk})
	}
	st.require("what there was space for", grew...)
	st.b.run(t, remover, remove...)
	st.require("the space is free again", shrunk...)
}

// killedInWrite: a process is killed while it is inside of a write.
func killedInWrite(t *testing.T, st *stage) {
	const name, path, chunk, count = "w-killed-write", "/w/killed-write", 256 << 10, 1024
	p := st.b.spawn(t, name, fields(fmt.Sprintf("wait then bulk path=%s chunk=%d count=%d then wait", path, chunk, count))...)
	p.until(t, "waiting")
	pid := st.b.hostPID(t, name)
	p.resume(t)
	file := filepath.Join(st.b.upper, path)
	for deadline := time.Now().Add(procLimit); ; {
		var got unix.Stat_t
		if err := unix.Lstat(file, &got); err == nil && got.Size > 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("nothing was written within %s", procLimit)
		}
		time.Sleep(time.Millisecond)
	}
	p.kill(t, pid)
	size, disk := st.stat(t, path)
	// Other file systems may finish the call first.
	if st.ext4 && size == chunk*count {
		t.Errorf("this test is wrong: the write was over before the process was killed")
	}
	st.require("what was written until it was killed", charged{name, path, size, disk, size})
	st.b.run(t, "prep", "unlink", "path="+path)
}

// writtenBackLate: what a process has written is its own, also if it is written
// back only after that process has ended, whoever makes that happen. ext4 needs
// a block for the map of a file with so many holes, and allocates it only then.
func writtenBackLate(t *testing.T, st *stage) {
	const holes, syncer = 12, "w-syncer"
	for name, sync := range map[string]func(t *testing.T, path string){
		"by-the-kernel": func(t *testing.T, _ string) { settle(t, st.b.upper) },
		"by-syncfs":     func(t *testing.T, path string) { st.b.run(t, syncer, "sync", "kind=filesystem", "path="+path) },
		"by-fsync":      func(t *testing.T, path string) { st.b.run(t, syncer, "sync", "kind=file", "path="+path) },
	} {
		t.Run(name, func(t *testing.T) {
			defer st.in(t)()
			writer, written, stored := "w-"+name, "/w/late-"+name, "/w/late-mapped-"+name
			lines := []string{"truncate path=" + stored + " size=1048576"}
			for i := range holes {
				lines = append(lines, fmt.Sprintf("pwrite path=%s offset=%d size=100", written, i*10_000),
					fmt.Sprintf("mmap path=%s offset=%d size=4096", stored, i*3*4096))
			}
			st.b.run(t, "prep", "create", "path="+stored)
			st.b.run(t, writer, fields(strings.Join(lines, " then "))...)
			sync(t, written)
			sync(t, stored)
			writtenSize, writtenDisk := st.stat(t, written)
			storedSize, storedDisk := st.stat(t, stored)
			if st.ext4 && (writtenDisk != (holes+1)*4096 || storedDisk != writtenDisk) {
				t.Errorf("this test is wrong: the files take %d and %d bytes", writtenDisk, storedDisk)
			}
			st.require("the writer is charged with all of it, and nobody else",
				charged{writer, written, writtenSize, writtenDisk, holes * 100},
				charged{writer, stored, storedSize, storedDisk, 0},
				charged{name: syncer, path: written}, charged{name: syncer, path: stored})
		})
	}
}

// coldCaches: the kernel forgets inodes and names in between.
func coldCaches(t *testing.T, st *stage) {
	drop := func() {
		t.Helper()
		// What is not written back is not dropped.
		settle(t, st.b.upper)
		if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0o200); err != nil {
			t.Fatal(err)
		}
	}
	st.b.run(t, "w-cold-1", fields("mkdir path=/w/cold then write path=/w/cold/f size=10000")...)
	drop()
	st.b.run(t, "w-cold-2", fields("append path=/w/cold/f size=500 then append path=/img/cold size=7")...)
	drop()
	_, copied := st.stat(t, "/img/cold")
	st.b.run(t, "w-cold-3", fields("rename from=/w/cold path=/w/warm then append path=/w/warm/f size=70 then truncate path=/img/cold size=100")...)
	drop()
	_, left := st.stat(t, "/img/cold")
	st.b.run(t, "w-cold-4", fields("unlink path=/w/warm/f then unlink path=/img/cold")...)
	st.require("each is charged with its part",
		charged{"w-cold-1", "/w/cold/f|/w/warm/f", 10_000, 12_288, 10_000},
		charged{"w-cold-2", "/w/cold/f|/w/warm/f", 500, 0, 500},
		charged{"w-cold-2", "/img/cold", img("cold") + 7, copied, 7},
		charged{"w-cold-3", "/w/warm/f", 70, 0, 70},
		charged{"w-cold-3", "/img/cold", 100 - img("cold") - 7, left - copied, 0},
		charged{"w-cold-4", "/w/warm/f", -10_570, -12_288, 0},
		charged{"w-cold-4", "/img/cold", -100, -left, 0})
}
