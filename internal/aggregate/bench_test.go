package aggregate

import (
	"fmt"
	"runtime"
	"testing"
	"unsafe"

	"github.com/layertrace/layertrace/internal/record"
	"github.com/layertrace/layertrace/tracer/event"
)

// seedMany gives my-api n files in directories of 100.
func seedMany(a *Aggregator, n int) {
	for i := range n {
		dir := old(uint64(10 + i/100))
		if i%100 == 0 {
			seedDir(a, dir, root, fmt.Sprintf("directory-%06d", i/100))
		}
		seedFile(a, old(uint64(1<<32+i)), dir, fmt.Sprintf("file-%010d.data", i), 1000, 4096)
	}
	a.SeedDone(1)
	a.Flush(at(1))
}

func TestNodeSize(t *testing.T) {
	if n := unsafe.Sizeof(node{}); n > 96 {
		t.Errorf("a node takes %d bytes; there may be millions", n)
	}
}

// TestMemoryPerFile keeps the promise of 200 bytes a known file, its name of 20
// bytes included.
func TestMemoryPerFile(t *testing.T) {
	if testing.Short() {
		t.Skip("seeds a million files")
	}
	const files = 1_000_000
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	a := newTest(t)
	seedMany(a, files)
	per := float64(heap()-before) / files
	runtime.KeepAlive(a)
	t.Logf("%.1f bytes a file", per)
	if per > 200 {
		t.Errorf("%.1f bytes a file, want at most 200", per)
	}
}

func BenchmarkSeed(b *testing.B) {
	names := make([]string, 100_000)
	for i := range names {
		names[i] = fmt.Sprintf("file-%010d.data", i)
	}
	b.ReportAllocs()
	for b.Loop() {
		a := newTest(b)
		for i, name := range names {
			seedFile(a, old(uint64(100+i)), root, name, 1000, 4096)
		}
		a.SeedDone(1)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(names)), "ns/file")
}

// BenchmarkInterval is an interval in which every one of 100,000 files of a
// layer changed.
func BenchmarkInterval(b *testing.B) {
	const files = 100_000
	for _, c := range []struct {
		name   string
		change func(*Config)
	}{
		{"all", func(*Config) {}},
		{"filtered", func(c *Config) { c.Include = []string{"/directory-00000*"} }},
	} {
		b.Run(c.name, func(b *testing.B) {
			a := newTest(b, c.change)
			seedMany(a, files)
			var batch event.Batch
			batch.Processes = []event.Process{known(5, "node")}
			for i := range files {
				batch.Deltas = append(batch.Deltas, delta(old(uint64(1<<32+i)), 5, int64(i), 4096, event.CauseWrite))
			}
			var recs []record.Record
			b.ReportAllocs()
			b.ResetTimer()
			for b.Loop() {
				a.Apply(&batch)
				recs = a.Flush(at(2))
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/files, "ns/file")
			b.ReportMetric(float64(len(recs)), "records")
		})
	}
}

// BenchmarkKnown is an interval in which 100 files changed, beside all those that
// did not: what does not change must not cost anything.
func BenchmarkKnown(b *testing.B) {
	for _, files := range []int{1_000, 100_000, 1_000_000} {
		b.Run(fmt.Sprintf("files=%d", files), func(b *testing.B) {
			a := newTest(b)
			seedMany(a, files)
			var batch event.Batch
			for i := range 100 {
				batch.Deltas = append(batch.Deltas, delta(old(uint64(1<<32+i*(files/100))), 5, 10, 4096, event.CauseWrite))
			}
			b.ReportAllocs()
			b.ResetTimer()
			for b.Loop() {
				a.Apply(&batch)
				a.Flush(at(2))
			}
		})
	}
}

// BenchmarkPaths makes the paths of 100,000 files, ten directories deep.
func BenchmarkPaths(b *testing.B) {
	const files, depth = 100_000, 10
	a := newTest(b)
	dir := root
	for i := range depth {
		below := old(uint64(10 + i))
		seedDir(a, below, dir, fmt.Sprintf("directory-%d", i))
		dir = below
	}
	for i := range files {
		seedFile(a, old(uint64(1<<32+i)), dir, fmt.Sprintf("file-%010d.data", i), 1000, 4096)
	}
	t := &a.layers[1].tree
	var nodes []nodeID
	for i := range files {
		nodes = append(nodes, t.find(old(uint64(1<<32+i))))
	}
	b.ReportAllocs()
	b.ResetTimer()
	for b.Loop() {
		ps := newPaths(t)
		for _, id := range nodes {
			if !ps.of(id).complete {
				b.Fatal("a path is not known")
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/files, "ns/path")
}

// BenchmarkIdle is an interval without a change in a layer of 100,000 files.
func BenchmarkIdle(b *testing.B) {
	a := newTest(b)
	seedMany(a, 100_000)
	batch := event.Batch{Layers: []event.LayerState{{Layer: 1, Mounted: true}}}
	b.ReportAllocs()
	b.ResetTimer()
	for b.Loop() {
		a.Apply(&batch)
		a.Flush(at(2))
	}
}

// BenchmarkTemporaryFiles is the life of 10,000 short-lived files in an interval.
func BenchmarkTemporaryFiles(b *testing.B) {
	const files = 10_000
	a := newTest(b)
	a.SeedDone(1)
	a.Flush(at(1))
	names := make([]string, files)
	for i := range names {
		names[i] = fmt.Sprintf("tmp.%05d", i)
	}
	var generation uint64
	b.ReportAllocs()
	for b.Loop() {
		var batch event.Batch
		for i := range uint64(files) {
			generation++
			f := fresh(100+i, generation)
			batch.Files = append(batch.Files,
				fileEvent(event.FileCreated, f, root, names[i], 5),
				fileEvent(event.FileUnlinked, f, root, names[i], 5),
				fileEvent(event.FileGone, f, event.FileID{}, "", 0))
			batch.Deltas = append(batch.Deltas, event.Delta{Layer: 1, File: f, Process: process(5), Written: 10, Writes: 1, Causes: event.CauseWrite})
		}
		a.Apply(&batch)
		a.Flush(at(2))
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/files, "ns/file")
	if n := len(a.layers[1].tree.byInode); n > 2*files+1 {
		b.Errorf("%d inodes known", n)
	}
}
