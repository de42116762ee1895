package resolver

import (
	"bytes"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"
)

// mountEntry is a line of a mountinfo file.
type mountEntry struct {
	id, parent int
	device     uint64 // major<<20|minor
	root       string // the mounted directory's path in its file system
	point      string
	readOnly   bool // the mount, or its file system, is
	fsType     string
	source     string
	options    string   // of the file system, escapes not decoded
	uppers     []string // of an overlay: see upperDirs
}

// mountTable is the mounts of a mount namespace, in the kernel's order.
type mountTable []mountEntry

// readMounts reads a mountinfo file. odd, which may be nil, is as in parseMounts.
func readMounts(file string, odd *oddities) (mountTable, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading mount table: %w", err)
	}
	return parseMounts(data, odd), nil
}

// parseMounts parses a mountinfo file, whose format is proc_pid_mountinfo(5).
// Lines that do not have it are left out, and odd tells of them: one odd mount must
// not hide the others. Lines may be of any length, those of overlays with many lower
// directories exceed 64 KiB.
func parseMounts(data []byte, odd *oddities) mountTable {
	var table mountTable
	for line := range bytes.Lines(data) {
		text := strings.TrimSuffix(string(line), "\n")
		m, ok := parseMount(text)
		if !ok {
			odd.note("line of a mount table left out", text, nil)
			continue
		}
		table = append(table, m)
	}
	return table
}

func parseMount(line string) (mountEntry, bool) {
	// 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 shared:2 - ext3 /dev/root rw,errors=continue
	const mandatory = 6
	fields := strings.Split(line, " ")
	if len(fields) < mandatory+1 {
		return mountEntry{}, false
	}
	rest := fields[mandatory:]
	for len(rest) > 0 && rest[0] != "-" {
		rest = rest[1:]
	}
	if len(rest) < 4 { // the separator, type, source, options
		return mountEntry{}, false
	}
	id, err1 := strconv.Atoi(fields[0])
	parent, err2 := strconv.Atoi(fields[1])
	majorText, minorText, _ := strings.Cut(fields[2], ":")
	major, err3 := strconv.ParseUint(majorText, 10, 12)
	minor, err4 := strconv.ParseUint(minorText, 10, 20)
	if err1 != nil || err2 != nil || err3 != nil || err4 != nil {
		return mountEntry{}, false
	}
	m := mountEntry{
		id: id, parent: parent,
		device:  major<<20 | minor,
		root:    decodeOctal(fields[3]),
		point:   decodeOctal(fields[4]),
		fsType:  decodeOctal(rest[1]),
		source:  decodeOctal(rest[2]),
		options: rest[3],
	}
	m.readOnly = hasOption(fields[5], "ro") || hasOption(m.options, "ro")
	if m.fsType == "overlay" {
		m.uppers = upperDirs(m.options)
	}
	return m, strings.HasPrefix(m.point, "/")
}

func hasOption(options, want string) bool {
	for option := range strings.SplitSeq(options, ",") {
		if option == want {
			return true
		}
	}
	return false
}

// decodeOctal replaces \ooo by the byte it stands for, as the kernel writes
// bytes that would be taken for separators. Anything else is kept.
func decodeOctal(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if v, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b = append(b, byte(v))
				i += 3
				continue
			}
		}
		b = append(b, s[i])
	}
	return string(b)
}

// upperDirs returns the upper directory that an overlay's options name, likelier
// reading first; nil if they name none. There are two readings of a backslash:
// mount(2) takes it as an escape for the next byte and leaves it there,
// fsconfig(2) takes it literally.
func upperDirs(options string) []string {
	for option := range strings.SplitSeq(options, ",") {
		value, ok := strings.CutPrefix(option, "upperdir=")
		if !ok || value == "" {
			continue
		}
		literal := decodeOctal(value)
		if !strings.Contains(literal, `\`) {
			return []string{literal}
		}
		b := make([]byte, 0, len(literal))
		for i := 0; i < len(literal); i++ {
			if literal[i] == '\\' && i+1 < len(literal) {
				i++
			}
			b = append(b, literal[i])
		}
		return []string{string(b), literal}
	}
	return nil
}

// at returns the mount that a path without symlinks lies on, as a path walk
// finds it: a mount that another one hides is not taken for it.
func (t mountTable) at(name string) (mountEntry, bool) {
	current := -1
	for i, m := range t {
		if m.point == "/" && !t.has(m.parent, m.id) {
			current = i
			break
		}
	}
	if current < 0 {
		return mountEntry{}, false
	}
	// Every step goes down by one mount; a table that says otherwise is broken.
	for range t {
		next := -1
		for i, m := range t {
			if m.parent != t[current].id || m.id == m.parent || !under(m.point, name) {
				continue
			}
			// The shallowest is crossed first.
			if next < 0 || len(m.point) < len(t[next].point) {
				next = i
			}
		}
		if next < 0 {
			return t[current], true
		}
		current = next
	}
	return mountEntry{}, false
}

// has reports whether the table holds a mount with this id that is not other.
func (t mountTable) has(id, other int) bool {
	for _, m := range t {
		if m.id == id && id != other {
			return true
		}
	}
	return false
}

// locate returns the path at which a file system's inner path can be seen.
func (t mountTable) locate(device uint64, inner string) (string, bool) {
	for _, m := range t {
		if m.device != device || !under(m.root, inner) {
			continue
		}
		name := path.Join(m.point, strings.TrimPrefix(inner, m.root))
		if visible, ok := t.at(name); ok && visible.id == m.id {
			return name, true
		}
	}
	return "", false
}

// under reports whether name is dir or below it. Both are absolute.
func under(dir, name string) bool {
	if dir == "/" {
		return strings.HasPrefix(name, "/")
	}
	rest, ok := strings.CutPrefix(name, dir)
	return ok && (rest == "" || rest[0] == '/')
}
