package output

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/layertrace/layertrace/internal/record"
)

// TableOptions configures Table and Live.
type TableOptions struct {
	Group Group
	// Depth bounds the directory levels of GroupDir and GroupPath; 0 is no
	// bound.
	Depth int
	// Width returns the terminal's width in columns when an interval is drawn;
	// 0, or a nil Width, means unlimited.
	Width func() int
	// Height is the same for lines; only Live needs it.
	Height func() int
	// Color allows ANSI colours. See ColorAllowed.
	Color bool
	// Rows bounds the rows of a container in one interval; the rest is summed in
	// a last row. 0 is no bound (Live: what fits).
	Rows int
	// Location is the time zone of the times shown; nil means UTC.
	Location *time.Location
}

func (o *TableOptions) width() int {
	if o.Width == nil {
		return 0
	}
	return o.Width()
}

func (o *TableOptions) clock(t record.Time) string {
	loc := o.Location
	if loc == nil {
		loc = time.UTC
	}
	return t.In(loc).Format(time.TimeOnly)
}

// ColorAllowed applies the usual rules: no colours with --no-color, with a
// non-empty NO_COLOR, with TERM=dumb, or if the output is no terminal.
func ColorAllowed(noColor, terminal bool, getenv func(string) string) bool {
	return terminal && !noColor && getenv("NO_COLOR") == "" && getenv("TERM") != "dumb"
}

// style is an ANSI colour.
type style string

const (
	plain   style = ""
	bold    style = "1"
	dim     style = "2"
	red     style = "31"
	green   style = "32"
	yellow  style = "33"
	heading       = bold
)

func (s style) paint(text string, on bool) string {
	if !on || s == plain || text == "" {
		return text
	}
	return "\x1b[" + string(s) + "m" + text + "\x1b[0m"
}

// page gathers the text of one interval and writes it at once.
type page struct {
	text  strings.Builder
	color bool
}

func (p *page) line(s style, format string, args ...any) {
	p.text.WriteString(s.paint(fmt.Sprintf(format, args...), p.color))
	p.text.WriteByte('\n')
}

// view holds what Table and Live have in common: what is gathered, and how it is
// laid out.
type view struct {
	opt      TableOptions
	sections map[string]*section
	order    []string          // container ids, as they came
	drivers  map[string]string // storage driver by container id
	now      record.Time       // of the latest growth or total
}

func newView(opt TableOptions) view {
	return view{opt: opt, sections: make(map[string]*section), drivers: make(map[string]string)}
}

func (v *view) section(c record.Container) *section {
	s := v.sections[c.ID]
	if s == nil {
		s = newSection(c)
		v.sections[c.ID] = s
		v.order = append(v.order, c.ID)
	}
	s.container = c
	return s
}

func (v *view) clear() {
	clear(v.sections)
	v.order = v.order[:0]
}

// note says in one line what a record that is no growth and no total means;
// empty if it has nothing to tell a person.
func (v *view) note(rec record.Record) (string, style) {
	switch r := rec.(type) {
	case *record.Session:
		text := fmt.Sprintf("layertrace %s on %s, kernel %s, coverage %s", Printable(r.Version), Printable(r.Host),
			Printable(r.Kernel), r.Coverage)
		if len(r.Reasons) > 0 {
			return text + ": " + Printable(strings.Join(r.Reasons, "; ")), yellow
		}
		return text, dim
	case *record.ContainerEvent:
		if r.Driver != "" {
			v.drivers[r.Container.ID] = r.Driver
		}
		text := fmt.Sprintf("%s  %s %s", v.opt.clock(r.Time), containerName(r.Container), r.Event)
		if r.Event == record.ContainerRemoved {
			delete(v.drivers, r.Container.ID)
		}
		if r.LostSize == nil || r.LostAllocated == nil {
			return text, dim
		}
		text += fmt.Sprintf(": %s were lost with it (%s on disk)", FormatSize(*r.LostSize), FormatSize(*r.LostAllocated))
		for i, p := range r.LostPaths[:min(3, len(r.LostPaths))] {
			if i == 0 {
				text += ", heaviest"
			}
			text += fmt.Sprintf(" %s (%s)", Printable(record.Raw(p.Path, p.PathB64)), FormatSize(p.Size))
		}
		return text, yellow
	case *record.Loss:
		return v.lossText(r), red
	}
	return "", plain
}

func (v *view) lossText(r *record.Loss) string {
	in := ""
	if r.Container != nil {
		in = " in " + containerName(*r.Container)
	}
	text := fmt.Sprintf("%s  loss%s: %s", v.opt.clock(r.Time), in, lossMeaning(r.Reason))
	text += ", " + plural(r.Events, "event", "events")
	if r.Bytes != 0 {
		text += fmt.Sprintf(", %s counted as unattributed", FormatSize(r.Bytes))
	}
	return text
}

func lossMeaning(reason string) string {
	switch reason {
	case "table_full":
		return "a table was full (table_full)"
	case "ring_full":
		return "names came too fast (ring_full)"
	case "recursion":
		return "the kernel skipped a nested probe (recursion)"
	case "path_too_long":
		return "a path was too long (path_too_long)"
	case record.LossUnresolved:
		return "the path of a file, or the layer of a container, could not be found out (unresolved)"
	default:
		return Printable(reason)
	}
}

func containerName(c record.Container) string {
	if name := Printable(record.Raw(c.Name, c.NameB64)); name != "" {
		return name
	}
	return c.ID[:min(12, len(c.ID))]
}

// tools names the tools that show a container's two sizes; "" is none that shows
// just this. Which of the two `docker ps -s` shows depends on the storage driver: the
// containerd image store counts disk space, overlays of Docker's own file sizes, and
// the others what a comparison with the image finds.
func tools(c *record.Container, driver string) (size, disk string) {
	if c.Runtime != "docker" {
		return "", "du" // others count more than the layer, or know no size of containers
	}
	switch driver {
	case "", "overlay2", "overlay", "aufs":
		return "docker ps -s", "du"
	case "fuse-overlayfs", "btrfs", "vfs", "zfs", "devicemapper":
		return "", "du"
	}
	return "", "du, docker ps -s"
}

// title is what stands above a container's rows: its name and totals, on one line
// where the terminal is wide enough.
func (v *view) title(s *section, now string) []string {
	text := containerName(s.container)
	if s.container.Image != "" {
		text += " (" + Printable(s.container.Image) + ")"
	}
	if now != "" {
		text = now + "  " + text
	}
	l := s.layer
	if l == nil {
		return wrapParts(s.logPart([]string{text}), v.opt.width())
	}
	size, disk := tools(&s.container, v.drivers[s.container.ID])
	parts := []string{
		text,
		fmt.Sprintf("layer %s, %s since start (%s)", FormatSize(l.Size), FormatGrowth(l.SizeGrowth), cmp.Or(size, "file sizes")),
		fmt.Sprintf("disk %s, %s (%s)", FormatSize(l.Allocated), FormatGrowth(l.DiskGrowth), disk),
	}
	if l.UnattributedSize != 0 || l.UnattributedDisk != 0 {
		parts = append(parts, fmt.Sprintf("unattributed %s, disk %s", FormatGrowth(l.UnattributedSize), FormatGrowth(l.UnattributedDisk)))
	}
	if l.OpenDeletedBytes != 0 {
		parts = append(parts, fmt.Sprintf("held by deleted open files %s", FormatSize(l.OpenDeletedBytes)))
	}
	return wrapParts(s.logPart(parts), v.opt.width())
}

// wrapParts joins parts into lines of at most width columns where that is
// possible; 0 is no bound.
func wrapParts(parts []string, width int) []string {
	lines := parts[:1]
	for _, part := range parts[1:] {
		last := &lines[len(lines)-1]
		if width <= 0 || columns(*last)+2+columns(part) <= width {
			*last += "  " + part
		} else {
			lines = append(lines, "  "+part)
		}
	}
	return lines
}

// column is a column of a table. Those with a rank are left out, lowest first,
// when the terminal is too narrow for the path.
type column struct {
	title string
	right bool
	rank  int
	cell  func(*row) string
}

// minPath is how many columns the path wants before others are left out for it.
const minPath = 24

func (v *view) columns(live, covered bool) []column {
	cols := []column{{"GROWTH", true, 0, func(r *row) string { return FormatGrowth(r.growth) }}}
	if live {
		cols = append(cols, column{"NOW", true, 3, func(r *row) string {
			if r.now == 0 {
				return ""
			}
			return FormatGrowth(r.now)
		}})
	}
	if !covered {
		cols = append(cols, column{"DISK", true, 4, func(r *row) string { return FormatGrowth(r.disk) }})
	}
	cols = append(cols,
		column{"WRITTEN", true, 1, func(r *row) string { return FormatSize(int64(r.written)) }},
		column{"CAUSE", false, 2, func(r *row) string { return r.causes.String() }},
		column{"PROCESS", false, 0, func(r *row) string { return r.processes.text("processes") }})
	if v.opt.Group == GroupNone || v.opt.Group == GroupProcess {
		cols = append(cols, column{"PID", true, 0, func(r *row) string {
			if r.key.pid == 0 {
				return "-"
			}
			return strconv.FormatUint(uint64(r.key.pid), 10)
		}})
	}
	return cols
}

// rows lays out a container's rows, at most limit of them; the rest makes a last
// line of its own. 0 is no bound.
func (v *view) rows(p *page, rows []*row, limit int, live, covered bool) {
	if len(rows) == 0 {
		return
	}
	rest := []*row(nil)
	if limit > 0 && len(rows) > limit {
		rows, rest = rows[:limit], rows[limit:]
	}
	cols := v.columns(live, covered)
	widths := make([]int, len(cols))
	cells := make([][]string, len(rows))
	for i, c := range cols {
		widths[i] = len(c.title)
		for j, r := range rows {
			text := c.cell(r)
			cells[j] = append(cells[j], text)
			widths[i] = max(widths[i], columns(text))
		}
	}
	const indent = "  "
	shown, room := v.fit(cols, widths, len(indent))

	var head strings.Builder
	head.WriteString(indent)
	for _, i := range shown {
		head.WriteString(pad(cols[i].title, widths[i], cols[i].right))
		head.WriteString("  ")
	}
	last := "PATH"
	if v.opt.Group == GroupProcess {
		last = "FILES"
	}
	p.line(dim, "%s", head.String()+last)

	for j, r := range rows {
		var b strings.Builder
		b.WriteString(indent)
		for _, i := range shown {
			text := pad(cells[j][i], widths[i], cols[i].right)
			if cols[i].title == "GROWTH" && r.growth < 0 {
				text = green.paint(text, p.color)
			}
			b.WriteString(text)
			b.WriteString("  ")
		}
		b.WriteString(v.pathCell(r, room))
		s := plain
		switch {
		case r.causes.String() == record.CauseUnattributed:
			s = yellow
		case live && r.now != 0:
			s = bold
		}
		p.line(s, "%s", strings.TrimRight(b.String(), " "))
	}
	if len(rest) > 0 {
		var growth, disk int64
		for _, r := range rest {
			growth += r.growth
			disk += r.disk
		}
		text := fmt.Sprintf("… and %s: %s", plural(len(rest), "more row", "more rows"), FormatGrowth(growth))
		if !covered {
			text += ", disk " + FormatGrowth(disk)
		}
		p.line(dim, "%s%s", indent, text)
	}
}

// fit chooses the columns to show and how much room is left for the path; 0 is
// no bound.
func (v *view) fit(cols []column, widths []int, used int) (shown []int, room int) {
	for i := range cols {
		shown = append(shown, i)
		used += widths[i] + 2
	}
	width := v.opt.width()
	if width <= 0 {
		return shown, 0
	}
	for rank := 1; rank <= 4 && width-used < minPath; rank++ {
		at := slices.IndexFunc(shown, func(i int) bool { return cols[i].rank == rank })
		if at >= 0 {
			used -= widths[shown[at]] + 2
			shown = slices.Delete(shown, at, at+1)
		}
	}
	return shown, max(width-used, 1)
}

func (v *view) pathCell(r *row, room int) string {
	text := r.key.path
	if v.opt.Group == GroupProcess {
		text = r.files.text("files")
	}
	note := r.note
	if r.class != "" {
		note = strings.TrimPrefix(note+", "+r.class, ", ")
	}
	if note != "" {
		note = "  [" + note + "]"
	}
	if room == 0 {
		return text + note
	}
	// The path comes first; what it is called besides only if there is room.
	if columns(text)+columns(note) <= room {
		return text + note
	}
	return shorten(text, room)
}

// add takes what a row or a title is made of; ok is false for other records.
func (v *view) add(rec record.Record) (ok bool) {
	switch r := rec.(type) {
	case *record.Growth:
		v.now = r.Time
		v.section(r.Container).add(r, v.opt.Group, v.opt.Depth)
	case *record.Layer:
		v.now = r.Time
		l := *r
		v.section(r.Container).layer = &l
	case *record.Log:
		v.now = r.Time
		l := *r
		v.section(r.Container).log = &l
	default:
		return false
	}
	return true
}

// Table writes, for people, a table an interval and at the end a summary in
// words. It is plain text that scrolls.
type Table struct {
	w     io.Writer
	view  view
	notes []func(*page)
	gone  error
}

// NewTable returns a table writer to w.
func NewTable(w io.Writer, opt TableOptions) *Table {
	return &Table{w: w, view: newView(opt)}
}

// Write takes a record; it is shown by the next Flush. A summary, which is the
// last record, is shown at once, after what was not flushed yet. rec is not kept.
func (t *Table) Write(rec record.Record) error {
	if t.gone != nil || t.view.add(rec) {
		return t.gone
	}
	switch r := rec.(type) {
	case *record.Summary:
		if err := t.Flush(); err != nil {
			return err
		}
		p := page{color: t.view.opt.Color}
		summarize(&p, r, t.view.drivers)
		return t.write(&p)
	default:
		if text, s := t.view.note(rec); text != "" {
			t.notes = append(t.notes, func(p *page) { p.line(s, "%s", text) })
		}
	}
	return nil
}

// Flush ends the interval and writes its table; nothing if nothing happened.
// What could not be written because of an error is lost.
func (t *Table) Flush() error {
	if t.gone != nil {
		return t.gone
	}
	p := page{color: t.view.opt.Color}
	for _, note := range t.notes {
		note(&p)
	}
	t.notes = t.notes[:0]
	for _, id := range t.view.order {
		s := t.view.sections[id]
		for _, line := range t.view.title(s, t.view.opt.clock(t.view.now)) {
			p.line(heading, "%s", line)
		}
		t.view.rows(&p, s.sorted(false), t.view.opt.Rows, false, false)
		if covered := s.sorted(true); len(covered) > 0 {
			p.line(dim, "  not in the layer:")
			t.view.rows(&p, covered, t.view.opt.Rows, false, true)
		}
		p.text.WriteByte('\n')
	}
	t.view.clear()
	return t.write(&p)
}

func (t *Table) write(p *page) error {
	if p.text.Len() == 0 {
		return nil
	}
	_, err := writeAll(t.w, []byte(p.text.String()))
	if isClosed(err) {
		t.gone = err
	}
	return err
}
