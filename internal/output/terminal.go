package output

import (
	"os"

	"golang.org/x/term"
)

// Terminal returns functions for TableOptions that ask a terminal for its size,
// which may change, and whether f is a terminal at all. Where the size cannot be
// had the functions return 0.
func Terminal(f *os.File) (width, height func() int, ok bool) {
	fd := int(f.Fd())
	size := func(i int) func() int {
		return func() int {
			w, h, err := term.GetSize(fd)
			if err != nil {
				return 0
			}
			return [...]int{w, h}[i]
		}
	}
	return size(0), size(1), term.IsTerminal(fd)
}
