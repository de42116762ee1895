package output

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/layertrace/layertrace/internal/record"
)

// Group says what a row of a table stands for.
type Group string

// Groups, as given to --group.
const (
	GroupNone    Group = ""        // a row for each file that a process changed
	GroupProcess Group = "process" // by process
	GroupPath    Group = "path"    // by file
	GroupDir     Group = "dir"     // by directory, at most Depth levels below the root
)

// ParseGroup reads a --group value.
func ParseGroup(s string) (Group, error) {
	switch g := Group(s); g {
	case GroupNone, GroupProcess, GroupPath, GroupDir:
		return g, nil
	}
	return "", fmt.Errorf("group %q: want process, path or dir", s)
}

// maxDistinct bounds what a row remembers to count its files or processes.
const maxDistinct = 1000

// distinct counts different strings.
type distinct struct {
	first string
	seen  map[string]struct{} // nil while there is only the first
	full  bool
}

func (d *distinct) add(s string) {
	switch {
	case d.first == "" && d.seen == nil:
		d.first = s
	case d.seen == nil && s == d.first:
	case len(d.seen) >= maxDistinct:
		d.full = true
	default:
		if d.seen == nil {
			d.seen = map[string]struct{}{d.first: {}}
		}
		d.seen[s] = struct{}{}
	}
}

// text is the one string, or how many there are.
func (d *distinct) text(many string) string {
	switch {
	case d.seen == nil:
		return d.first
	case d.full:
		return fmt.Sprintf("%d+ %s", len(d.seen), many)
	default:
		return fmt.Sprintf("%d %s", len(d.seen), many)
	}
}

// causes lists the causes in the order in which they are shown.
var causes = [...]string{
	record.CauseWrite, record.CauseCopyUp, record.CauseTruncate, record.CauseAllocate, record.CauseMmap,
	record.CauseClone, record.CauseCreate, record.CauseDelete, record.CauseRename, record.CauseMetadata,
	record.CauseUnattributed,
}

type causeSet uint16

func (s *causeSet) add(names []string) {
	for _, n := range names {
		if i := slices.Index(causes[:], n); i >= 0 {
			*s |= 1 << i
		}
	}
}

func (s causeSet) String() string {
	var names []string
	for i, n := range causes {
		if s&(1<<i) != 0 {
			names = append(names, n)
		}
	}
	return strings.Join(names, ",")
}

// rowKey tells rows apart; which fields are set depends on the Group.
type rowKey struct {
	pid     uint32
	start   int64
	process string
	path    string
	covered bool
}

// row is one line of a table.
type row struct {
	key       rowKey
	growth    int64
	disk      int64
	now       int64 // growth in the latest interval
	written   uint64
	causes    causeSet
	processes distinct
	files     distinct
	note      string
	class     string // of covered paths
}

func (r *row) weight() int64 { return max(abs(r.growth), abs(r.disk)) }

func abs(n int64) int64 {
	if n < 0 {
		return -n
	}
	return n
}

// compareRows puts the heavier first.
func compareRows(x, y *row) int {
	return cmp.Or(
		cmp.Compare(y.weight(), x.weight()),
		cmp.Compare(y.written, x.written),
		strings.Compare(x.key.path, y.key.path),
		strings.Compare(x.key.process, y.key.process),
		cmp.Compare(x.key.pid, y.key.pid),
		cmp.Compare(x.key.start, y.key.start),
	)
}

// section gathers what is shown of one container.
type section struct {
	container record.Container
	layer     *record.Layer
	log       *record.Log
	rows      map[rowKey]*row
}

func newSection(c record.Container) *section {
	return &section{container: c, rows: make(map[rowKey]*row)}
}

// sorted returns the rows of the layer, or those outside of it.
func (s *section) sorted(covered bool) []*row {
	var rows []*row
	for _, r := range s.rows {
		if r.key.covered == covered {
			rows = append(rows, r)
		}
	}
	slices.SortFunc(rows, compareRows)
	return rows
}

// add counts a growth record into its row.
func (s *section) add(g *record.Growth, group Group, depth int) {
	name := pathText(&g.File)
	who := processText(g.Process, g.Container.ID)
	k := rowKey{covered: g.Storage.Class != record.ClassLayer}
	if group == GroupNone || group == GroupProcess {
		k.process = who
		if g.Process != nil {
			k.pid, k.start = g.Process.PID, g.Process.StartTime.UnixNano()
		}
	}
	switch group {
	case GroupNone:
		k.path = name
	case GroupPath:
		k.path = cut(name, depth)
	case GroupDir:
		k.path = cut(directoryOf(name, g.File.Origin), depth)
		if k.path != unknownFile && !strings.HasSuffix(k.path, "/") {
			k.path += "/"
		}
	}
	r := s.rows[k]
	if r == nil {
		r = &row{key: k}
		s.rows[k] = r
	}
	r.growth += g.SizeGrowth
	r.disk += g.DiskGrowth
	r.now += g.SizeGrowth
	r.written += g.WrittenBytes
	r.causes.add(g.Causes)
	r.processes.add(who)
	r.files.add(name)
	if k.covered {
		r.class = storageText(g.Storage)
	}
	if group == GroupNone || group == GroupPath {
		r.note = noteText(&g.File)
	}
}

// unknownFile stands for growth without any path.
const unknownFile = "(unknown file)"

func pathText(f *record.File) string {
	p := Printable(record.Raw(f.Path, f.PathB64))
	switch {
	case p == "":
		return unknownFile
	case f.PathIncomplete:
		return "…/" + p
	default:
		return p
	}
}

func noteText(f *record.File) string {
	switch {
	case f.Origin == record.OriginWhiteout:
		return "image file deleted"
	case f.Deleted:
		return "deleted"
	case f.PreviousPath != "":
		return "was " + Printable(record.Raw(f.PreviousPath, f.PreviousPathB64))
	default:
		return ""
	}
}

// processText names the actor; one that is not of the container itself says
// where it is.
func processText(p *record.Process, owner string) string {
	if p == nil {
		return "-"
	}
	name := Printable(record.Raw(p.Name, p.NameB64))
	if name == "" {
		name = "?"
	}
	switch p.ContainerID {
	case owner:
		return name
	case "":
		return name + "@host"
	default:
		return name + "@" + p.ContainerID[:min(12, len(p.ContainerID))]
	}
}

func storageText(s record.Storage) string {
	switch {
	case s.Name != "":
		return s.Class + " " + Printable(s.Name)
	case s.Destination != "":
		return s.Class + " " + Printable(record.Raw(s.Destination, s.DestinationB64))
	default:
		return s.Class
	}
}

// directoryOf returns the directory that a file is in; of a directory, itself.
func directoryOf(name, origin string) string {
	if name == unknownFile || origin == record.OriginDirectory {
		return name
	}
	return path.Dir(name)
}

// cut bounds a path to its first depth components; 0 is no bound.
func cut(name string, depth int) string {
	if depth <= 0 || !strings.HasPrefix(name, "/") {
		return name
	}
	for i := 1; i < len(name); i++ {
		if name[i] == '/' {
			if depth--; depth == 0 {
				return name[:i+1]
			}
		}
	}
	return name
}
