package output

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/width"
)

// Printable escapes what does not belong on a terminal in a name: control and
// format characters and bytes that are not UTF-8, as \n, \x1b, \u202e, \xff.
func Printable(raw string) string {
	clean := true
	for _, r := range raw {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			clean = false
			break
		}
	}
	if clean {
		return raw
	}
	var b strings.Builder
	for i := 0; i < len(raw); {
		r, n := utf8.DecodeRuneInString(raw[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, raw[i])
		case unicode.IsPrint(r):
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r == '\r':
			b.WriteString(`\r`)
		case r < 0x80:
			fmt.Fprintf(&b, `\x%02x`, r)
		case r < 0x10000:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			fmt.Fprintf(&b, `\U%08x`, r)
		}
		i += n
	}
	return b.String()
}

// columns returns how many columns of a terminal printable text takes.
func columns(s string) int {
	n := 0
	for _, r := range s {
		n += runeColumns(r)
	}
	return n
}

func runeColumns(r rune) int {
	switch {
	case r < 0x300: // no wide or combining ones below
		return 1
	case unicode.In(r, unicode.Mn, unicode.Me):
		return 0
	}
	switch width.LookupRune(r).Kind() {
	case width.EastAsianWide, width.EastAsianFullwidth:
		return 2
	default:
		return 1
	}
}

// pad fills s with spaces to n columns, to the left if right-aligned.
func pad(s string, n int, right bool) string {
	fill := n - columns(s)
	if fill <= 0 {
		return s
	}
	if right {
		return strings.Repeat(" ", fill) + s
	}
	return s + strings.Repeat(" ", fill)
}

// shorten makes a path fit into n columns by leaving out directories in the
// middle. The file name stays whole, even if it alone does not fit, and so does
// as much of the path's start as there is room for.
func shorten(path string, n int) string {
	if columns(path) <= n {
		return path
	}
	at := strings.LastIndexByte(strings.TrimSuffix(path, "/"), '/')
	if at < 0 {
		return path
	}
	const gap = "…"
	name := gap + path[at:]
	room := n - columns(name)
	head := 0 // of the path, up to and with a slash
	for i, used := 0, 0; i < at; {
		r, size := utf8.DecodeRuneInString(path[i:])
		if used += runeColumns(r); used > room {
			break
		}
		if i += size; r == '/' {
			head = i
		}
	}
	if path[:head] == gap+"/" {
		head = 0 // one gap is enough
	}
	if short := path[:head] + name; columns(short) < columns(path) {
		return short
	}
	return path
}

// plural joins a number and a noun, of which many is the plural.
func plural[N int | int64 | uint64](n N, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
