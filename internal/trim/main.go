// Command trim takes out of compiled BPF programs what only a linker, or a reader of the
// verifier's log, wants: relocations of the type information, and source lines. They are
// half of an object, which is part of the layertrace program as it is, and the kernel
// keeps the lines of programs that are loaded.
//
//	trim LLVM-OBJCOPY OBJECT...
package main

import (
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
)

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: trim LLVM-OBJCOPY OBJECT...")
		os.Exit(2)
	}
	for _, object := range os.Args[2:] {
		if err := trim(os.Args[1], object); err != nil {
			fmt.Fprintf(os.Stderr, "trim: %s: %v\n", object, err)
			os.Exit(1)
		}
	}
}

const section = ".BTF.ext"

func trim(objcopy, object string) error {
	data, err := read(object)
	if err != nil {
		return err
	}
	short, err := withoutLines(data)
	if err != nil {
		return err
	}
	file, err := os.CreateTemp("", "trim")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	_, err = file.Write(short)
	if err := errors.Join(err, file.Close()); err != nil {
		return err
	}
	cmd := exec.Command(objcopy, "--remove-section=.rel.BTF", "--remove-section=.rel.BTF.ext", "--update-section="+section+"="+file.Name(), object)
	cmd.Stderr = os.Stderr
	return cmd.Run()
}

func read(object string) ([]byte, error) {
	file, err := elf.Open(object)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	s := file.Section(section)
	if s == nil {
		return nil, fmt.Errorf("no section %s", section)
	}
	return s.Data()
}

// header begins the section (struct btf_ext_header of the kernel's libbpf). Offsets
// count from its end.
type header struct {
	Magic                      uint16
	Version, Flags             uint8
	Size                       uint32
	Functions, FunctionsLength uint32
	Lines, LinesLength         uint32
	Relos, RelosLength         uint32
}

// withoutLines returns the section without lines but for the first one of each function:
// the kernel takes none or at least these, and the library that loads the programs adds
// some of its own.
func withoutLines(data []byte) ([]byte, error) {
	var h header
	n, err := binary.Decode(data, binary.LittleEndian, &h)
	switch {
	case err != nil:
		return nil, err
	case h.Magic != 0xeb9f || h.Version != 1 || int(h.Size) != n:
		return nil, fmt.Errorf("unknown kind of %s", section)
	case h.Functions != 0 || h.Lines != h.FunctionsLength || h.Relos != h.Lines+h.LinesLength || len(data) != n+int(h.Relos+h.RelosLength):
		return nil, fmt.Errorf("%s is laid out in another way", section)
	}
	functions, lines, relos := data[n:n+int(h.Lines)], data[n+int(h.Lines):n+int(h.Relos)], data[n+int(h.Relos):]
	type place struct{ program, instruction uint32 }
	begins := make(map[place]bool)
	if _, err := records(functions, func(program, instruction uint32) bool {
		begins[place{program, instruction}] = true
		return true
	}); err != nil {
		return nil, err
	}
	lines, err = records(lines, func(program, instruction uint32) bool { return begins[place{program, instruction}] })
	if err != nil {
		return nil, err
	}
	h.LinesLength = uint32(len(lines))
	h.Relos = h.Lines + h.LinesLength
	out, err := binary.Append(nil, binary.LittleEndian, &h)
	return slices.Concat(out, functions, lines, relos), err
}

// records returns a table without the records that are not to be kept. It begins with
// the size of a record, and has for each program its name, their number, and the records,
// each of which begins with the offset of an instruction.
func records(table []byte, keep func(program, instruction uint32) bool) ([]byte, error) {
	var short error
	next := func(n uint32) []byte {
		if uint64(n) > uint64(len(table)) {
			short, n = fmt.Errorf("%s: a table is too short", section), uint32(len(table))
		}
		piece := table[:n]
		table = table[n:]
		return piece
	}
	number := func() uint32 {
		piece := next(4)
		if short != nil {
			return 0
		}
		return binary.LittleEndian.Uint32(piece)
	}
	size := number()
	if size < 4 {
		return nil, fmt.Errorf("%s: records of %d bytes", section, size)
	}
	out := binary.LittleEndian.AppendUint32(nil, size)
	for len(table) > 0 && short == nil {
		program, count := number(), number()
		var kept []byte
		left := uint32(0)
		for i := uint32(0); i < count && short == nil; i++ {
			if record := next(size); short == nil && keep(program, binary.LittleEndian.Uint32(record)) {
				kept = append(kept, record...)
				left++
			}
		}
		out = binary.LittleEndian.AppendUint32(out, program)
		out = binary.LittleEndian.AppendUint32(out, left)
		out = append(out, kept...)
	}
	return out, short
}
