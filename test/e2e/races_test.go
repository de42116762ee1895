//go:build linux

package e2e

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// raceAppending: four processes append to one file as fast as they can. Each is
// charged with its own bytes exactly.
func raceAppending(t *testing.T, st *stage) {
	const path = "/w/race"
	st.b.run(t, "prep", "create", "path="+path)
	racers := map[string]struct{ size, chunk int64 }{
		"w-race-a": {400_000, 1000}, "w-race-b": {311_000, 777}, "w-race-c": {200_000, 4096}, "w-race-d": {50_000, 13},
	}
	var procs []*proc
	for name, r := range racers {
		procs = append(procs, st.b.spawn(t, name, fields(fmt.Sprintf("wait then append path=%s size=%d chunk=%d", path, r.size, r.chunk))...))
	}
	for _, p := range procs {
		p.until(t, "waiting")
	}
	for _, p := range procs {
		p.resume(t)
	}
	for _, p := range procs {
		p.finish(t)
	}
	st.until(seenLimit, "each racer is charged with its own bytes", func(v *view) error {
		for name, r := range racers {
			got := v.byIn(st.b, name, path)
			if got.size != r.size || got.written != uint64(r.size) {
				return fmt.Errorf("%s: size %d, written %d, want %d for both:\n%s", name, got.size, got.written, r.size, v.linesOf(func(g *growth) bool { return st.b.of(g) && g.path() == path }))
			}
		}
		return nil
	})
}

// compete runs busy processes, by name, until each of them is in several intervals,
// and returns how many bytes they have written. None of them may come to an end of
// what it can do by itself.
func (st *stage) compete(t *testing.T, lines map[string]string) int64 {
	t.Helper()
	procs := map[string]*proc{}
	for _, name := range slices.Sorted(maps.Keys(lines)) {
		procs[name] = st.b.spawn(t, name, fields(lines[name])...)
		procs[name].until(t, "busy")
	}
	// They leave layertrace little of an emulated processor.
	st.until(4*seenLimit, "all of them are at work", func(v *view) error {
		for name := range lines {
			intervals := map[string]bool{}
			for i := range v.growth {
				if g := &v.growth[i]; st.b.of(g) && g.process() == name {
					intervals[g.Time.String()] = true
				}
			}
			if len(intervals) < 4 {
				return fmt.Errorf("%s is in %d intervals", name, len(intervals))
			}
		}
		return nil
	})
	for _, p := range procs {
		p.resume(t)
	}
	written := int64(0)
	for _, p := range procs {
		for _, r := range p.finish(t) {
			written += r.Written
		}
	}
	return written
}

// raceTruncating: some append to a file while others cut it off. Who is charged
// with what is a matter of luck, but the sum is not.
func raceTruncating(t *testing.T, st *stage) {
	const path = "/w/race-cut"
	st.b.run(t, "prep", "create", "path="+path)
	grow, cut := "busy kind=grow path="+path+" limit=500000 chunk=", "busy kind=cut path="+path+" limit=400000"
	written := st.compete(t, map[string]string{"w-grow-1": grow + "999", "w-grow-2": grow + "5000", "w-grow-3": grow + "1", "w-cut-1": cut, "w-cut-2": cut})
	size, disk := st.stat(t, path)
	st.until(seenLimit, "all that happened to the file", func(v *view) error {
		got := v.sum(func(g *growth) bool { return st.b.of(g) && g.path() == path })
		if got.size != size || st.exact && got.disk != disk || got.written != uint64(written) {
			return fmt.Errorf("size %d, disk %d, written %d; want %d, %d, %d", got.size, got.disk, got.written, size, disk, written)
		}
		return nil
	})
}

// raceRenaming: files are written while they and their directories are renamed,
// exchanged and replaced. Afterwards each is known by the name that it then has.
func raceRenaming(t *testing.T, st *stage) {
	const dir = "/w/moving"
	line := "mkdir path=" + dir
	for d := range 4 {
		line += fmt.Sprintf(" then mkdir path=%s/d%d then fill path=%[1]s/d%[2]d/f count=4 size=100", dir, d)
	}
	st.b.run(t, "prep", fields(line)...)
	// More than they can write meanwhile: none may come to an end of it.
	grow := "busy kind=grow limit=4000000000 path=" + dir
	lines := map[string]string{
		"w-a-writer-1": grow + "/d0/f0 chunk=700", "w-a-writer-2": grow + "/d1/f1 chunk=300",
		"w-renamer-1": "busy kind=renames path=" + dir + " chunk=5000", "w-renamer-2": "busy kind=renames path=" + dir + " chunk=20",
	}
	racers, written := slices.Collect(maps.Keys(lines)), st.compete(t, lines)
	line = ""
	var left []charged
	for _, n := range walkLayer(t, st.b.upper).inodes {
		if path := n.paths[0]; strings.Count(path, "/") == 4 && strings.HasPrefix(path, dir) {
			line += " then append size=5 path=" + path
			left = append(left, charged{name: "w-after", path: path, size: 5, written: 5})
		}
	}
	st.b.run(t, "w-after", fields(strings.TrimPrefix(line, " then "))...)
	st.until(seenLimit, "each file by its last name", func(v *view) error {
		all := v.sum(func(g *growth) bool { return st.b.of(g) && slices.Contains(racers, g.process()) })
		if all.written != uint64(written) {
			return fmt.Errorf("the processes are charged with %d bytes written, want %d", all.written, written)
		}
		for _, c := range left {
			if err := grownAt(v, st.b, c.name, c.path, c.size); err != nil {
				return err
			}
		}
		return nil
	})
}

// forkStorm: hundreds of processes that live for about a millisecond and never
// execute a program. Each appends to one file and makes another.
func forkStorm(t *testing.T, st *stage) {
	const dir, shared, count = "/w/storm", "/w/storm/all", 300
	st.b.run(t, "prep", fields("mkdir path="+dir+" then create path="+shared)...)
	st.b.run(t, "w-storm", fields(fmt.Sprintf("storm path=%s/storm- shared=%s count=%d width=8", dir, shared, count))...)
	st.until(seenLimit, "every one of the processes", func(v *view) error {
		type place struct{ name, path string }
		got := map[place]total{}
		for i := range v.growth {
			if g := &v.growth[i]; st.b.of(g) && g.Process != nil && strings.HasPrefix(g.path(), dir+"/") && g.process() != "prep" {
				sum := got[place{g.process(), g.path()}]
				sum.add(g)
				got[place{g.process(), g.path()}] = sum
			}
		}
		for i := range int64(count) {
			name := fmt.Sprintf("storm-%d", i)
			for path, want := range map[string]int64{shared: 1 + i, dir + "/" + name: 2 * (1 + i)} {
				if sum := got[place{name, path}]; sum.size != want || sum.written != uint64(want) || sum.writes != 1 {
					return fmt.Errorf("%s on %s: %+v, want size and written %d by one write", name, path, sum, want)
				}
			}
		}
		if len(got) != 2*count {
			return fmt.Errorf("%d pairs of a process and a file, want %d", len(got), 2*count)
		}
		return nil
	})
}

// madeAndGone: files that are made and deleted within an interval leave nothing.
func madeAndGone(t *testing.T, st *stage) {
	const name, count, size = "w-gone", 200, 3000
	st.b.run(t, "prep", "mkdir", "path=/w/gone")
	before := st.mark(t)
	st.b.run(t, name, fields(fmt.Sprintf("blink path=/w/gone/ count=%d size=%d", count, size))...)
	st.until(seenLimit, "what was written meanwhile", func(v *view) error {
		files := v.sum(func(g *growth) bool { return st.b.of(g) && g.process() == name && g.path() != "/w/gone" })
		if files.size != 0 || files.disk != 0 || files.written != count*size {
			return fmt.Errorf("size %d, disk %d, written %d, want 0, 0, %d", files.size, files.disk, files.written, count*size)
		}
		return nil
	})
	after := st.mark(t)
	if after.Files != before.Files || after.Size != before.Size+1 || after.OpenDeletedBytes != 0 {
		t.Errorf("the layer before: %+v\nand after: %+v", before, after)
	}
}

// pidReused: processes that have the same pid one after the other, and never execute
// a program, are told apart.
func pidReused(t *testing.T, st *stage) {
	const dir, shared, count = "/w/reuse", "/w/reuse/all", 20
	st.b.run(t, "prep", fields("mkdir path="+dir+" then create path="+shared)...)
	results := hostRun(t, "w-reuse", fields(fmt.Sprintf("setns pid=%d then reusepid path=%s/reuse- shared=%s count=%d", st.b.pid, dir, shared, count))...)
	pid := results[len(results)-1].Detail
	st.until(seenLimit, "every one of the processes", func(v *view) error {
		started := map[string]string{} // names by start times
		for i := range count {
			name := fmt.Sprintf("reuse-%d", i)
			for path, want := range map[string]int64{shared: 1 + int64(i), dir + "/" + name: 2 * (1 + int64(i))} {
				mine := func(g *growth) bool { return st.b.of(g) && g.process() == name && g.path() == path }
				if got := v.sum(mine); got.size != want || got.written != uint64(want) || got.writes != 1 {
					return fmt.Errorf("%s on %s: %+v, want size and written %d by one write:\n%s", name, path, got, want, v.linesOf(mine))
				}
			}
		}
		for i := range v.growth {
			g := &v.growth[i]
			if !st.b.of(g) || !strings.HasPrefix(g.process(), "reuse-") {
				continue
			}
			if fmt.Sprint(g.Process.PID) != pid {
				return fmt.Errorf("pid %d, want %s for all of them:\n%s", g.Process.PID, pid, g.line)
			}
			at := g.Process.StartTime.String()
			if other, known := started[at]; known && other != g.process() {
				return fmt.Errorf("%s and %s are said to have started at %s", other, g.process(), at)
			}
			started[at] = g.process()
		}
		return nil
	})
}

// inodeReused: the file system uses a deleted file's inode number for the next one.
func inodeReused(t *testing.T, st *stage) {
	number := func(path string) uint64 {
		t.Helper()
		var got unix.Stat_t
		if err := unix.Lstat(filepath.Join(st.b.upper, path), &got); err != nil {
			t.Fatal(err)
		}
		return got.Ino
	}
	for try := range 10 {
		maker, remover, next := fmt.Sprintf("w-inode-a%d", try), fmt.Sprintf("w-inode-r%d", try), fmt.Sprintf("w-inode-b%d", try)
		old, fresh := "/w/"+maker, "/w/"+next
		st.b.run(t, maker, "write", "path="+old, "size=5000")
		before := number(old)
		// In one interval, for the most part.
		st.b.run(t, remover, "unlink", "path="+old)
		st.b.run(t, next, "write", "path="+fresh, "size=300")
		st.require("the three of them",
			charged{maker, old, 5000, 8192, 5000}, charged{remover, old, -5000, -8192, 0}, charged{next, fresh, 300, 4096, 300},
			charged{name: maker, path: fresh}, charged{name: next, path: old})
		if number(fresh) == before {
			return
		}
	}
	if st.ext4 {
		t.Error("this test is wrong: ext4 uses the numbers of inodes again")
	}
	t.Log("n/a: this file system does not use the numbers of inodes again at once")
}
