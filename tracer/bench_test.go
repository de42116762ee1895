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
		"counter": func(i int) []byte {
			record := ledgerCounterRecord{Kind: recordCounter}
			record.Key.Inode = uint64(i)
			return append([]byte(nil), bytesOf(&record)...)
		},
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
	for _, kind := range []string{"counter", "file", "process"} {
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
				t.pending.batch, t.pending.keys = event.Batch{}, nil
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/records, "ns/record")
		})
	}
}
