package tracer

import (
	"fmt"
	"testing"

	"github.com/layertrace/layertrace/tracer/event"
)

// BenchmarkDecode is the reading of records as the ring brings them, 1,000 of a
// kind between two calls of Collect.
func BenchmarkDecode(b *testing.B) {
	chars := func(to []int8, text string) {
		for i := range len(text) {
			to[i] = int8(text[i])
		}
	}
	var executable ledgerExecutableKey
	executable.Inode = 7
	raw := map[string]func(i int) []byte{
		"file": func(i int) []byte {
			name := fmt.Sprintf("file-%010d.data", i)
			record := ledgerFileRecordShort{Kind: recordFile, Op: uint32(event.FileCreated), Inode: uint64(i), NameLen: uint32(len(name))}
			chars(record.Name[:], name)
			return append([]byte(nil), bytesOf(&record)...)
		},
		"process": func(i int) []byte {
			record := ledgerProcessRecord{Kind: recordProcess, Executable: executable}
			record.Process.Pid = uint32(i)
			chars(record.Comm[:], "node")
			return append([]byte(nil), bytesOf(&record)...)
		},
	}
	const records = 1000
	for _, kind := range []string{"file", "process"} {
		b.Run(kind, func(b *testing.B) {
			var all [records][]byte
			for i := range all {
				all[i] = raw[kind](i)
			}
			var t Tracer
			t.pending.init()
			t.pending.executables[executable] = "/usr/bin/node"
			b.ReportAllocs()
			for b.Loop() {
				for i := range all {
					t.decode(all[i])
				}
				t.pending.batch = event.Batch{}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/records, "ns/record")
		})
	}
}

// BenchmarkCounters is the reading of a table of 1,000 counters.
func BenchmarkCounters(b *testing.B) {
	const count = 1000
	counters := make([]ledgerCounter, count)
	var t Tracer
	t.pending.init()
	b.ReportAllocs()
	for b.Loop() {
		for i := range counters {
			counters[i].Key.Inode = uint64(i)
			counters[i].Size = 4096
		}
		var batch event.Batch
		t.addAll(&batch, counters)
		clear(counters)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/count, "ns/counter")
}
