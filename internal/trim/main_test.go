package main

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"
)

// table makes a table of records of so many bytes, of two programs with an instruction
// per number.
func table(size uint32, first, second []uint32) []byte {
	out := binary.LittleEndian.AppendUint32(nil, size)
	for i, program := range [][]uint32{first, second} {
		out = binary.LittleEndian.AppendUint32(out, uint32(i+1))
		out = binary.LittleEndian.AppendUint32(out, uint32(len(program)))
		for _, at := range program {
			record := make([]byte, size)
			binary.LittleEndian.PutUint32(record, at)
			out = append(out, record...)
		}
	}
	return out
}

func TestWithoutLines(t *testing.T) {
	functions := table(8, []uint32{0, 80}, []uint32{0})
	section := func(lines []byte) []byte {
		h := header{
			Magic: 0xeb9f, Version: 1, Size: 32, FunctionsLength: uint32(len(functions)), Lines: uint32(len(functions)),
			LinesLength: uint32(len(lines)), Relos: uint32(len(functions) + len(lines)), RelosLength: 5,
		}
		out, err := binary.Append(nil, binary.LittleEndian, &h)
		if err != nil {
			t.Fatal(err)
		}
		return slices.Concat(out, functions, lines, []byte("relos"))
	}
	whole := section(table(16, []uint32{0, 8, 16, 80, 88}, []uint32{0, 8, 80}))
	want := section(table(16, []uint32{0, 80}, []uint32{0}))
	for _, data := range [][]byte{whole, want} {
		if got, err := withoutLines(data); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%q, %v, want %q", got, err, want)
		}
	}
	other := bytes.Clone(whole)
	other[4] = 24
	longer := bytes.Clone(whole)
	longer[32+8] = 200 // functions of the first program
	for _, data := range [][]byte{nil, whole[:40], append(bytes.Clone(whole), 0), other, longer} {
		if got, err := withoutLines(data); err == nil {
			t.Errorf("%q of %q", got, data)
		}
	}
}
