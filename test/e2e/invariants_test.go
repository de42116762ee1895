//go:build linux

package e2e

import (
	"fmt"
	"slices"
	"sort"
	"testing"

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
	got := env.docker.inspect(t, b.id, true)
	if got.SizeRw == nil {
		t.Fatalf("%s: docker inspect -s says no SizeRw", b.name)
	}
	after := walkLayer(t, b.upper)
	if b.longPaths {
		// Docker's own walk fails.
		equal("this test is wrong: SizeRw of docker inspect -s", *got.SizeRw, -1)
	} else {
		equal("last size, against SizeRw of docker inspect -s", last.Size, *got.SizeRw)
	}
	equal("last size, against a walk of the layer", last.Size, after.size)
	equal("last allocated, against du -s --block-size=1", last.Allocated, du(t, b.upper))
	equal("last allocated, against a walk of the layer", last.Allocated, after.disk)

	// Everything was attributed and nothing lost.
	equal("unattributed_size", last.UnattributedSize, 0)
	equal("unattributed_disk", last.UnattributedDisk, 0)
	nobody := func(g *growth) bool {
		return b.of(g) && (g.Process == nil || slices.Contains(g.Causes, "unattributed"))
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
	if s.session.Coverage != "full" {
		t.Errorf("coverage is %q: %v", s.session.Coverage, s.session.Reasons)
	}

	checkSummary(t, s, b, last)
	if b.before != nil {
		equal("baseline_size, against a walk before", first.BaselineSize, b.before.size)
		equal("baseline_allocated, against a walk before", first.BaselineAllocated, b.before.disk)
		checkInodes(t, s, b, after)
	}
	checkFiles(t, s, b, after)
	if t.Failed() {
		t.Logf("%s: the last layer record: %+v", b.name, last)
	}
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
// became of it on the disk. An inode number that is used again counts as one.
func checkInodes(t *testing.T, s *session, b *box, after *layerWalk) {
	t.Helper()
	sums := map[uint64]*total{}
	for i := range s.growth {
		if g := &s.growth[i]; b.of(g) {
			if sums[g.File.Inode] == nil {
				sums[g.File.Inode] = &total{}
			}
			sums[g.File.Inode].add(g)
		}
	}
	numbers := map[uint64]bool{}
	for _, m := range []map[uint64]*inode{b.before.inodes, after.inodes} {
		for n := range m {
			numbers[n] = true
		}
	}
	for n := range sums {
		numbers[n] = true
	}
	var bad []string
	for n := range numbers {
		var was, is inode
		if i := b.before.inodes[n]; i != nil {
			was = *i
		}
		if i := after.inodes[n]; i != nil {
			is = *i
		}
		var sum total
		if sums[n] != nil {
			sum = *sums[n]
		}
		if sum.size == is.size-was.size && sum.disk == is.disk-was.disk {
			continue
		}
		bad = append(bad, fmt.Sprintf("inode %d %q: its records add up to size %+d, disk %+d; on the disk it went from size %d, disk %d to size %d, disk %d\n%s",
			n, append(was.paths, is.paths...), sum.size, sum.disk, was.size, was.disk, is.size, is.disk,
			s.linesOf(func(g *growth) bool { return b.of(g) && g.File.Inode == n })))
	}
	sort.Strings(bad)
	for i, text := range bad {
		if i == 8 {
			t.Errorf("%s: … and %d more inodes", b.name, len(bad)-i)
			break
		}
		t.Errorf("%s: %s", b.name, text)
	}
}

// checkFiles requires that what the stream says last about a file that still
// exists is what the disk says.
func checkFiles(t *testing.T, s *session, b *box, after *layerWalk) {
	t.Helper()
	newest := map[uint64]*growth{}
	for i := range s.growth {
		if g := &s.growth[i]; b.of(g) && g.Process != nil {
			newest[g.File.Inode] = g
		}
	}
	bad := 0
	for number, g := range newest {
		is := after.inodes[number]
		if is == nil {
			if !g.File.Deleted && g.File.Origin != record.OriginWhiteout {
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
		if g.File.Size != is.size && g.File.Origin != record.OriginDirectory || g.File.Allocated != is.disk {
			t.Errorf("%s: inode %d %q has size %d and %d allocated bytes, its last record says otherwise:\n%s", b.name, number, is.paths, is.size, is.disk, g.line)
			bad++
		}
		if bad > 8 {
			return
		}
	}
}
