package main

import (
	"bytes"
	"encoding/binary"
	"testing"
)

func TestWithoutLines(t *testing.T) {
	section := func(lines string) []byte {
		h := header{
			Magic: 0xeb9f, Version: 1, Size: 32, FunctionsLength: 9,
			Lines: 9, LinesLength: uint32(len(lines)), Relos: 9 + uint32(len(lines)), RelosLength: 5,
		}
		out, err := binary.Append(nil, binary.LittleEndian, &h)
		if err != nil {
			t.Fatal(err)
		}
		return append(out, "functions"+lines+"relos"...)
	}
	whole, want := section("sizeand the lines"), section("size")
	for _, data := range [][]byte{whole, want} {
		if got, err := withoutLines(data); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%q, %v, want %q", got, err, want)
		}
	}
	other := bytes.Clone(whole)
	other[4] = 24
	for _, data := range [][]byte{nil, whole[:40], append(whole, 0), other} {
		if got, err := withoutLines(data); err == nil {
			t.Errorf("%q of %q", got, data)
		}
	}
}
