//go:build linux

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/internal/record"
)

// Files that are deleted while they are open: they leave the layer's size and disk
// use at once, and the disk when nobody has them open any more.

// holds compares a layer record with what the layer's size is and with what
// deleted files hold, which is foretold for ext4, and measured elsewhere.
func (st *stage) holds(l record.Layer, size, open int64) error {
	if !st.ext4 {
		held, err := st.heldDeleted()
		if err != nil {
			return err
		}
		if open > 0 && held == 0 && st.passing {
			held = l.OpenDeletedBytes
		}
		open = max(held, min(open, 1))
	}
	if l.Size != size || st.exact && l.OpenDeletedBytes != open {
		return fmt.Errorf("layer size %d, open_deleted_bytes %d; want %d and %d: %+v", l.Size, l.OpenDeletedBytes, size, open, l)
	}
	return nil
}

// heldDeleted is what those deleted files take on the disk that processes of the
// container have open or mapped, after they were written back.
func (st *stage) heldDeleted() (int64, error) {
	settle(st.t, st.b.upper)
	ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", st.b.pid))
	if err != nil {
		return 0, err
	}
	names, err := filepath.Glob("/proc/[0-9]*/ns/pid")
	if err != nil {
		return 0, err
	}
	held := map[uint64]int64{}
	for _, name := range names {
		if of, err := os.Readlink(name); err != nil || of != ns {
			continue // of another container, or gone
		}
		process := filepath.Dir(filepath.Dir(name))
		for _, kind := range []string{"fd", "map_files"} {
			open, err := filepath.Glob(filepath.Join(process, kind, "*"))
			if err != nil {
				return 0, err
			}
			for _, file := range open {
				var is unix.Stat_t
				if path, err := os.Readlink(file); err == nil && strings.HasPrefix(path, "/w/") && unix.Stat(file, &is) == nil && is.Nlink == 0 {
					held[is.Ino] = is.Blocks * 512
				}
			}
		}
	}
	sum := int64(0)
	for _, disk := range held {
		sum += disk
	}
	return sum, nil
}

func (st *stage) untilHolds(what string, size, open int64) {
	st.t.Helper()
	st.until(seenLimit, what, func(v *view) error {
		l, err := v.lastLayer(st.b)
		if err != nil {
			return err
		}
		return st.holds(l, size, open)
	})
}

// stillHolds requires that nothing has changed.
func (st *stage) stillHolds(t *testing.T, what string, size, open int64) {
	t.Helper()
	if err := st.holds(st.mark(t), size+1, open); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// empty returns the layer's size while no deleted file is open.
func (st *stage) empty(t *testing.T) int64 {
	t.Helper()
	before := st.mark(t)
	if before.OpenDeletedBytes != 0 {
		t.Fatalf("open_deleted_bytes is %d before anything was deleted while open: %+v", before.OpenDeletedBytes, before)
	}
	return before.Size
}

// deletedOpen: one process has the file open, and goes on writing to it.
func deletedOpen(t *testing.T, st *stage) {
	const name, path, size = "w-deleted", "/w/deleted", mib
	before := st.empty(t)
	p := st.b.spawn(t, name, fields(fmt.Sprintf(`keep path=%[1]s then keptwrite path=%[1]s size=%[2]d then wait then unlink path=%[1]s then wait then
		keptwrite path=%[1]s size=8192 then wait then release path=%[1]s then wait`, path, size))...)
	p.until(t, "waiting")
	st.untilHolds("the file is in the layer", before+size, 0)
	p.resume(t)
	p.until(t, "waiting")
	st.untilHolds("the deleted file is open", before, size)
	st.until(seenLimit, "its deletion", func(v *view) error {
		if got := v.byIn(st.b, name, path); got.size != 0 || !slices.Contains(got.causes, "delete") {
			return fmt.Errorf("its records add up to %+v", got)
		}
		return nil
	})
	p.resume(t)
	p.until(t, "waiting")
	st.untilHolds("the deleted file grows", before, size+8192)
	p.resume(t)
	p.until(t, "waiting")
	st.untilHolds("the deleted file is closed", before, 0)
	p.resume(t)
	p.finish(t)
}

// deletedOpenByTwo: two processes have it open, and a third deletes it.
func deletedOpenByTwo(t *testing.T, st *stage) {
	const path, size = "/w/deleted-by-two", 100_000
	before := st.empty(t)
	line := "keep path=" + path + " then wait then release path=" + path + " then wait"
	first := st.b.spawn(t, "w-holder-1", fields("keep path="+path+fmt.Sprintf(" then keptwrite path=%s size=%d then wait then release path=%s then wait", path, size, path))...)
	first.until(t, "waiting")
	second := st.b.spawn(t, "w-holder-2", fields(line)...)
	second.until(t, "waiting")
	_, disk := st.stat(t, path)
	if st.ext4 && disk != 102_400 {
		t.Errorf("this test is wrong: the file takes %d", disk)
	}
	st.b.run(t, "w-deleter", "unlink", "path="+path)
	st.require("who made it grow and who deleted it",
		charged{"w-holder-1", path, size, disk, size}, charged{"w-deleter", path, -size, -disk, 0}, charged{name: "w-holder-2", path: path})
	st.untilHolds("both have it open", before, disk)
	first.resume(t)
	first.until(t, "waiting")
	st.stillHolds(t, "one has it open", before, disk)
	second.resume(t)
	second.until(t, "waiting")
	st.untilHolds("nobody has it open", before+1, 0)
	for _, p := range []*proc{first, second} {
		p.resume(t)
		p.finish(t)
	}
}

// deletedAndPassed: the last descriptor is sent to another process, which receives
// it only after the sender has ended.
func deletedAndPassed(t *testing.T, st *stage) {
	const path, socket, size, disk = "/w/deleted-passed", "/run/passing", 50_000, 53_248
	before := st.empty(t)
	receiver := st.b.spawn(t, "w-receiver", fields(fmt.Sprintf(`listen at=%[2]s then wait then receivefd path=%[1]s at=%[2]s then keptwrite path=%[1]s size=4096 then wait then
		release path=%[1]s then wait`, path, socket))...)
	receiver.until(t, "waiting")
	st.b.run(t, "w-sender", fields(fmt.Sprintf("keep path=%[1]s then keptwrite path=%[1]s size=%[3]d then unlink path=%[1]s then sendfd path=%[1]s at=%[2]s", path, socket, size))...)
	st.passing = true
	st.untilHolds("the descriptor is on its way", before, disk)
	st.stillHolds(t, "the descriptor is on its way", before, disk)
	st.passing = false
	receiver.resume(t)
	receiver.until(t, "waiting")
	st.untilHolds("the receiver has written to it", before+1, disk+4096)
	receiver.resume(t)
	receiver.until(t, "waiting")
	st.untilHolds("the receiver has closed it", before+1, 0)
	receiver.resume(t)
	receiver.finish(t)
}

// deletedButMapped: a mapping alone keeps the file, and stores into it still
// allocate, until the process is killed.
func deletedButMapped(t *testing.T, st *stage) {
	const name, path = "w-deleted-map", "/w/deleted-mapped"
	st.hole(t, path, 131_072)
	before := st.empty(t) - 131_072
	p := st.b.spawn(t, name, fields(fmt.Sprintf("map path=%[1]s size=131072 then store path=%[1]s size=65536 then unlink path=%[1]s then wait then store path=%[1]s size=131072 then wait", path))...)
	p.until(t, "waiting")
	st.untilHolds("the deleted file is mapped", before, 65_536)
	st.stillHolds(t, "the deleted file is mapped", before, 65_536)
	p.resume(t)
	p.until(t, "waiting")
	st.untilHolds("the deleted file grows", before+1, 131_072)
	p.kill(t, st.b.hostPID(t, name))
	st.untilHolds("the process that had it mapped is gone", before+1, 0)
}

// replacedWhileOpen: another file is renamed over one that is open.
func replacedWhileOpen(t *testing.T, st *stage) {
	const name, path = "w-replaced", "/w/replaced"
	before := st.mark(t)
	p := st.b.spawn(t, name, fields(fmt.Sprintf("keep path=%[1]s then keptwrite path=%[1]s size=5000 then wait then release path=%[1]s then wait", path))...)
	p.until(t, "waiting")
	st.b.run(t, "w-replacer", fields(fmt.Sprintf("write path=%[1]s.new size=300 then rename from=%[1]s.new path=%[1]s", path))...)
	st.untilHolds("the replaced file is open", before.Size+300, 8192)
	if after := st.mark(t); after.Files != before.Files+1 {
		t.Errorf("there is one file more than before, but the layer's record says %d after %d: %+v", after.Files, before.Files, after)
	}
	if st.sum(func(g *growth) bool {
		return st.b.of(g) && g.process() == "w-replacer" && g.SizeGrowth < 0 && g.File.Deleted
	}).records == 0 {
		t.Errorf("no record says that the file was deleted:\n%s", st.linesOf(func(g *growth) bool { return st.b.of(g) && g.process() == "w-replacer" }))
	}
	p.resume(t)
	p.until(t, "waiting")
	st.untilHolds("the replaced file is closed", before.Size+301, 0)
	p.resume(t)
	p.finish(t)
}
