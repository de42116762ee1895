//go:build linux

package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/internal/record"
)

// quiet waits until everything that the box's processes did is on the disk and
// can no longer change by itself, ends the run, and checks it for each box. No
// process of the test may be writing any more.
func (s *session) quiet(boxes ...*box) {
	s.t.Helper()
	for _, b := range boxes {
		settle(s.t, b.upper)
	}
	s.stop()
	for _, b := range boxes {
		checkInvariants(s.t, s, b)
	}
}

// checkInvariants holds a finished run against the disk, for a container that
// still exists and is quiet: what must always hold.
func checkInvariants(t *testing.T, s *session, b *box) {
	t.Helper()
	layers := s.layersOf(b)
	if len(layers) == 0 {
		t.Errorf("%s: no layer record in the whole run\n%s", b.name, s.dump())
		return
	}
	first, last := layers[0], layers[len(layers)-1]
	sum := s.sum(b.of)
	equal := func(what string, got, want int64) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %s: %d, want %d (differs by %d)", b.name, what, got, want, got-want)
		}
	}

	// The attributed growth is the layer's growth.
	equal("Σ size_growth, against last size − first baseline_size", sum.size, last.Size-first.BaselineSize)
	equal("Σ disk_growth, against last allocated − first baseline_allocated", sum.disk, last.Allocated-first.BaselineAllocated)
	equal("Σ size_growth, against the last layer record", sum.size, last.SizeGrowth)
	equal("Σ disk_growth, against the last layer record", sum.disk, last.DiskGrowth)
	equal("Σ written_bytes, against the last layer record", int64(sum.written), int64(last.WrittenBytes))
	equal("Σ copy_up_bytes, against the last layer record", sum.copyUp, last.CopyUpBytes)
	for _, l := range layers {
		if l.BaselineSize != first.BaselineSize || l.BaselineAllocated != first.BaselineAllocated {
			t.Errorf("%s: the baseline changed during the run: %+v, then %+v", b.name, first, l)
			break
		}
	}

	// The stream says what the disk says, by three tools.
	got := b.api().inspect(t, b.id, true)
	if got.SizeRw == nil {
		t.Fatalf("%s: docker inspect -s says no SizeRw", b.name)
	}
	after := walkLayer(t, b.upper)
	if b.plain {
		// Docker compares it with the image.
	} else if b.longPaths {
		// Docker's own walk fails.
		equal("this test is wrong: SizeRw of docker inspect -s", *got.SizeRw, -1)
	} else if got.GraphDriver.Name == overlay2 {
		equal("last size, against SizeRw of docker inspect -s", last.Size, *got.SizeRw)
	} else {
		equal("last allocated, against SizeRw of docker inspect -s", last.Allocated, *got.SizeRw)
	}
	equal("last size, against a walk of the layer", last.Size, after.size)
	equal("last allocated, against du -s --block-size=1", last.Allocated, du(t, b.upper))
	equal("last allocated, against a walk of the layer", last.Allocated, after.disk)

	// Everything was attributed and nothing lost.
	exactDisk := b.exactDisk(t)
	equal("unattributed_size", last.UnattributedSize, 0)
	if exactDisk {
		equal("unattributed_disk", last.UnattributedDisk, 0)
	}
	nobody := func(g *growth) bool {
		return b.of(g) && (g.Process == nil || slices.Contains(g.Causes, "unattributed")) && (exactDisk || g.SizeGrowth != 0)
	}
	if n := s.sum(nobody); n.records > 0 {
		t.Errorf("%s: %d growth records without a process:\n%s", b.name, n.records, s.linesOf(nobody))
	}
	for _, l := range s.losses {
		if b.longPaths && l.Reason == "path_too_long" && l.Bytes == 0 {
			continue
		}
		if l.Container == nil || l.Container.ID == b.id {
			t.Errorf("%s: loss: %+v", b.name, l)
		}
	}
	switch {
	case b.fuse:
	case exactDisk && s.session.Coverage != "full", !exactDisk && !blindToDisk(t, s, b):
		t.Errorf("coverage is %q: %v", s.session.Coverage, s.session.Reasons)
	}

	checkSummary(t, s, b, last)
	if b.before != nil {
		equal("baseline_size, against a walk before", first.BaselineSize, b.before.size)
		equal("baseline_allocated, against a walk before", first.BaselineAllocated, b.before.disk)
		checkInodes(t, s, b, after)
	}
	checkFiles(t, s, b, after, exactDisk)
	if t.Failed() {
		t.Logf("%s: the last layer record: %+v", b.name, last)
	}
}

// blindToDisk tells whether the session says that disk growth on the box's file system
// is found by the audit only, and that it is partial for no other reason.
func blindToDisk(t *testing.T, s *session, b *box) bool {
	t.Helper()
	names := map[int64]string{unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs"}
	about := fmt.Sprintf("allocated bytes on %s:", names[fileSystem(t, b.upper)])
	reasons := s.session.Reasons
	return s.session.Coverage == "partial" && len(reasons) == 1 && strings.HasPrefix(reasons[0], about)
}

// checkSummary holds the summary against the last layer record.
func checkSummary(t *testing.T, s *session, b *box, last record.Layer) {
	t.Helper()
	if s.summary == nil {
		t.Errorf("no summary\n%s", s.dump())
		return
	}
	i := slices.IndexFunc(s.summary.Containers, func(c record.ContainerSummary) bool { return c.Container.ID == b.id })
	if i < 0 {
		t.Errorf("%s is not in the summary: %+v", b.name, *s.summary)
		return
	}
	c := s.summary.Containers[i]
	type totals struct {
		size, allocated, baselineSize, baselineAllocated, sizeGrowth, diskGrowth, copyUp, noSize, noDisk int64
		written                                                                                          uint64
	}
	said := totals{c.Size, c.Allocated, c.BaselineSize, c.BaselineAllocated, c.SizeGrowth, c.DiskGrowth, c.CopyUpBytes, c.UnattributedSize, c.UnattributedDisk, c.WrittenBytes}
	want := totals{last.Size, last.Allocated, last.BaselineSize, last.BaselineAllocated, last.SizeGrowth, last.DiskGrowth, last.CopyUpBytes, last.UnattributedSize, last.UnattributedDisk, last.WrittenBytes}
	if said != want {
		t.Errorf("%s: the summary says %+v, the last layer record %+v", b.name, said, want)
	}
	for _, p := range c.TopProcesses {
		name := record.Raw(p.Name, p.NameB64)
		sum := s.sum(func(g *growth) bool {
			return b.of(g) && g.Process != nil && g.process() == name && g.Process.Executable == p.Executable
		})
		if p.SizeGrowth != sum.size || p.DiskGrowth != sum.disk || p.WrittenBytes != sum.written {
			t.Errorf("%s: the summary's process %+v, its growth records %+v", b.name, p, sum)
		}
	}
}

// checkInodes requires of every inode that its growth records add up to what
// became of it on the disk. A number that is used again counts as one inode; and
// inodes that had the same path, as temporary files do, count as one, because a
// record is about a path and may speak of several that followed one another.
func checkInodes(t *testing.T, s *session, b *box, after *layerWalk) {
	t.Helper()
	group := groups{}
	for i := range s.growth {
		if g := &s.growth[i]; b.of(g) {
			group.join(inodeKey(g.File.Inode), g.path())
		}
	}
	for _, w := range []*layerWalk{b.before, after} {
		for n, i := range w.inodes {
			for _, path := range i.paths {
				group.join(inodeKey(n), path)
			}
		}
	}
	type balance struct {
		booked, onDisk total
		members        []string
	}
	balances := map[string]*balance{}
	of := func(n uint64) *balance {
		key := group.find(inodeKey(n))
		if balances[key] == nil {
			balances[key] = &balance{}
		}
		return balances[key]
	}
	for i := range s.growth {
		if g := &s.growth[i]; b.of(g) {
			of(g.File.Inode).booked.add(g)
		}
	}
	for sign, w := range map[int64]*layerWalk{-1: b.before, 1: after} {
		for n, i := range w.inodes {
			x := of(n)
			x.onDisk.size += sign * i.size
			x.onDisk.disk += sign * i.disk
			x.members = append(x.members, fmt.Sprintf("%d %.300q", n, i.paths))
		}
	}
	var bad []string
	for key, x := range balances {
		if x.booked.size == x.onDisk.size && x.booked.disk == x.onDisk.disk {
			continue
		}
		slices.Sort(x.members)
		bad = append(bad, fmt.Sprintf("the records of inodes %s add up to size %+d, disk %+d; on the disk they changed by size %+d, disk %+d\n%s",
			strings.Join(slices.Compact(x.members), ", "), x.booked.size, x.booked.disk, x.onDisk.size, x.onDisk.disk,
			s.linesOf(func(g *growth) bool { return b.of(g) && group.find(inodeKey(g.File.Inode)) == key })))
	}
	slices.Sort(bad)
	for i, text := range bad {
		if i == 8 {
			t.Errorf("%s: … and %d more inodes", b.name, len(bad)-i)
			break
		}
		t.Errorf("%s: %s", b.name, text)
	}
}

// groups joins strings that belong together.
type groups map[string]string

func (g groups) find(x string) string {
	for {
		up, ok := g[x]
		if !ok || up == x {
			return x
		}
		x = up
	}
}

func (g groups) join(a, b string) {
	g[g.find(a)] = g.find(b)
}

// inodeKey is no path: those begin with a slash.
func inodeKey(n uint64) string { return fmt.Sprintf("inode %d", n) }

// checkFiles requires that what the stream says last about a file that still
// exists is what the disk says, of allocated bytes only if they are known exactly.
func checkFiles(t *testing.T, s *session, b *box, after *layerWalk, exactDisk bool) {
	t.Helper()
	newest := map[uint64]*growth{}
	// Of files that followed one another under one name, one record tells the end.
	ended := map[string]uint64{}
	for i := range s.growth {
		if g := &s.growth[i]; b.of(g) && g.Process != nil {
			newest[g.File.Inode] = g
			if g.File.Deleted {
				ended[g.path()] = g.Seq
			}
		}
	}
	bad := 0
	for number, g := range newest {
		is := after.inodes[number]
		if is == nil {
			if !g.File.Deleted && g.File.Origin != record.OriginWhiteout && ended[g.path()] < g.Seq {
				t.Errorf("%s: inode %d is not in the layer any more, but its last record does not say so:\n%s", b.name, number, g.line)
				bad++
			}
			continue
		}
		if is.whiteout || g.File.Deleted || g.File.Origin == record.OriginWhiteout {
			// All whiteouts of a layer may share one inode; and a number may
			// have been given again to a file that has no record of its own.
			continue
		}
		if g.File.Size != is.size && g.File.Origin != record.OriginDirectory || exactDisk && g.File.Allocated != is.disk {
			t.Errorf("%s: inode %d %q has size %d and %d allocated bytes, its last record says otherwise:\n%s", b.name, number, is.paths, is.size, is.disk, g.line)
			bad++
		}
		if bad > 8 {
			return
		}
	}
}
