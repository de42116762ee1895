//go:build linux

package main

import (
	"fmt"
	"strconv"
	"strings"
)

// row is a way and what came of it.
type row struct {
	way     *way
	prep    sizes // what the preparation has changed of the layer on the disk
	change  sizes // of the layer on the disk
	docker  int64 // change of the size that Docker says
	written int64 // bytes that the process says its calls wrote

	account account  // layertrace's
	wrong   []string // what layertrace has wrong
}

// bytesText writes a number of bytes without rounding it.
func bytesText(n int64) string {
	switch {
	case n == 0:
		return "0"
	case n%(1<<20) == 0:
		return grouped(n>>20) + " MiB"
	case n%(1<<10) == 0 && -1<<20 < n && n < 1<<20:
		return grouped(n>>10) + " KiB"
	}
	return grouped(n) + " B"
}

// growthText is bytesText with a sign.
func growthText(n int64) string {
	if n > 0 {
		return "+" + bytesText(n)
	}
	return bytesText(n)
}

func (s sizes) String() string { return growthText(s.size) + ", " + growthText(s.disk) }

// grouped separates thousands.
func grouped(n int64) string {
	sign, digits := "", strconv.FormatInt(n, 10)
	if n < 0 {
		sign, digits = "-", digits[1:]
	}
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return sign + digits
}

const (
	unseen = "not seen"
	absent = "-" // the peer failed
)

// bytesSeen is the cell for what a peer says the way wrote.
func (r *row) bytesSeen(written map[string]int64) string {
	if written == nil {
		return absent
	}
	if n, ok := written[r.way.process()]; ok {
		return bytesText(n)
	}
	return unseen
}

// rightBytes tells whether that is the layer's change, in size or on the disk. To see nothing is
// right only where nothing changed.
func (r *row) rightBytes(written map[string]int64) bool {
	n, ok := written[r.way.process()]
	if !ok {
		return written != nil && r.change == sizes{}
	}
	return n == r.change.size || n == r.change.disk
}

// eventsSeen is the cell for the types of events of the way.
func (r *row) eventsSeen(types map[string]string) string {
	switch seen := types[r.way.process()]; {
	case types == nil:
		return absent
	case seen == "":
		return unseen
	default:
		return "`" + seen + "`"
	}
}

// own are layertrace's cells: growth, written, causes.
func (r *row) own() []string {
	growth := r.account.String()
	if r.wrong != nil {
		growth += " **wrong**"
	}
	written := bytesText(int64(r.account.written))
	if r.account.covered > 0 {
		written = fmt.Sprintf("%s (%s)", bytesText(int64(r.account.covered)), r.account.class)
	}
	return []string{growth, written, strings.Join(r.account.causes, ", ")}
}

// table is the table in markdown.
func table(rows []row, f findings) string {
	var b strings.Builder
	line := func(cells ...string) { fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | ")) }
	head := []string{"way", "on the disk: size, allocated", "layertrace: growth in size, on the disk", "layertrace: written", "layertrace: cause",
		"`filetop`: written", "bpftrace: `vfs_write`", "`fatrace`: events", "`docker ps -s`"}
	line(head...)
	line(strings.Split(strings.Repeat("---,", len(head)-1)+"---", ",")...)
	for i := range rows {
		r := &rows[i]
		cells := append([]string{r.way.title, r.change.String()}, r.own()...)
		line(append(cells, r.bytesSeen(f.filetop), r.bytesSeen(f.bpftrace), r.eventsSeen(f.fatrace), growthText(r.docker))...)
	}
	count := func(right func(*row) bool) string {
		n := 0
		for i := range rows {
			if right(&rows[i]) {
				n++
			}
		}
		return fmt.Sprintf("%d of %d", n, len(rows))
	}
	countBytes := func(written map[string]int64) string {
		if written == nil {
			return absent
		}
		return count(func(r *row) bool { return r.rightBytes(written) })
	}
	line("**right**", "", count(func(r *row) bool { return r.wrong == nil }), "", "",
		countBytes(f.filetop), countBytes(f.bpftrace), "", count(func(r *row) bool { return r.docker == r.change.size }))
	return b.String()
}
