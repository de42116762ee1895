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

// withoutLines returns the section without lines but for the size of one, which readers
// expect.
func withoutLines(data []byte) ([]byte, error) {
	const recordSize = 4
	var h header
	n, err := binary.Decode(data, binary.LittleEndian, &h)
	switch {
	case err != nil:
		return nil, err
	case h.Magic != 0xeb9f || h.Version != 1 || int(h.Size) != n:
		return nil, fmt.Errorf("unknown kind of %s", section)
	case h.Functions != 0 || h.Lines != h.FunctionsLength || h.Relos != h.Lines+h.LinesLength || len(data) != n+int(h.Relos+h.RelosLength) || h.LinesLength < recordSize:
		return nil, fmt.Errorf("%s is laid out in another way", section)
	}
	rest := data[n+int(h.Relos):]
	front := data[n : n+int(h.Lines)+recordSize]
	h.LinesLength = recordSize
	h.Relos = h.Lines + recordSize
	out, err := binary.Append(nil, binary.LittleEndian, &h)
	return append(append(out, front...), rest...), err
}
