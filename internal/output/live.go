package output

import (
	"cmp"
	"io"
	"slices"
	"strings"

	"github.com/layertrace/layertrace/internal/record"
)

const (
	// maxLiveRows bounds the rows that a live view remembers of a container;
	// when more have come by, the lighter half is forgotten.
	maxLiveRows = 4096
	// maxLiveNotes is how many of the latest notes stay on the screen.
	maxLiveNotes = 3
)

// Terminal control: what is drawn replaces what was there line by line, so that
// nothing flickers; wrapping is off, so that a line too long cannot move others.
const (
	enterLive = "\x1b[?25l\x1b[?7l\x1b[2J"
	leaveLive = "\x1b[?7h\x1b[?25h"
	home      = "\x1b[H"
	endOfLine = "\x1b[K"
	clearDown = "\x1b[J"
)

// Live shows what Table shows, redrawn in place on a terminal: totals and the
// heaviest rows, added up since the start, beside what grew in the latest
// interval.
type Live struct {
	w       io.Writer
	view    view
	notes   []styled
	entered bool
	ended   bool // the summary was written
	gone    error
}

type styled struct {
	text  string
	style style
}

// NewLive returns a live view on w, which must be a terminal. Close it.
func NewLive(w io.Writer, opt TableOptions) *Live {
	return &Live{w: w, view: newView(opt)}
}

// Write takes a record; it is shown by the next Flush. A summary ends the live
// view: the last screen stays and the summary is written below it, over which
// nothing is drawn any more.
func (l *Live) Write(rec record.Record) error {
	if l.gone != nil || l.view.add(rec) {
		return l.gone
	}
	switch r := rec.(type) {
	case *record.Summary:
		if err := l.Flush(); err != nil {
			return err
		}
		if err := l.Close(); err != nil {
			return err
		}
		l.ended = true
		p := page{color: l.view.opt.Color}
		summarize(&p, r, l.view.drivers)
		return l.write("\n" + p.text.String())
	case *record.ContainerEvent:
		l.note(rec)
		if r.Event == record.ContainerRemoved {
			delete(l.view.sections, r.Container.ID)
			l.view.order = slices.DeleteFunc(l.view.order, func(id string) bool { return id == r.Container.ID })
		}
	default:
		l.note(rec)
	}
	return nil
}

func (l *Live) note(rec record.Record) {
	text, s := l.view.note(rec)
	if text == "" {
		return
	}
	l.notes = append(l.notes, styled{text, s})
	if len(l.notes) > maxLiveNotes {
		l.notes = slices.Delete(l.notes, 0, 1)
	}
}

// thin forgets the lighter half of a section's rows.
func thin(s *section) {
	rows := make([]*row, 0, len(s.rows))
	for _, r := range s.rows {
		rows = append(rows, r)
	}
	slices.SortFunc(rows, compareRows)
	for _, r := range rows[maxLiveRows/2:] {
		delete(s.rows, r.key)
	}
}

// Flush redraws the screen, unless a summary has ended the live view.
func (l *Live) Flush() error {
	if l.gone != nil || l.ended {
		return l.gone
	}
	var b strings.Builder
	if !l.entered {
		l.entered = true
		b.WriteString(enterLive)
	}
	b.WriteString(home)
	for _, line := range l.screen() {
		b.WriteString(line)
		b.WriteString(endOfLine)
		b.WriteString("\r\n")
	}
	b.WriteString(clearDown)
	for _, s := range l.view.sections {
		if len(s.rows) > maxLiveRows {
			thin(s)
		}
		for _, r := range s.rows {
			r.now = 0
		}
	}
	return l.write(b.String())
}

// screen lays out the lines of a screen, as many as there is room for.
func (l *Live) screen() []string {
	height := 0
	if l.view.opt.Height != nil {
		height = l.view.opt.Height()
	}
	sections := make([]*section, 0, len(l.view.order))
	for _, id := range l.view.order {
		sections = append(sections, l.view.sections[id])
	}
	slices.SortStableFunc(sections, func(x, y *section) int { return cmp.Compare(y.weight(), x.weight()) })

	// Each container has its title and a line between it and the next, and if
	// there are rows column heads and a line for those left out. What is left of
	// the screen is shared, the lightest asking first, so that what they do not
	// need goes to the heaviest.
	titles := make([][]string, len(sections))
	rows := make([][]*row, len(sections))
	limits := make([]int, len(sections))
	shown, room := len(sections), height-1-len(l.notes)
	reserved := 0 // rows
	for i, s := range sections {
		now := ""
		if i == 0 {
			now = l.view.opt.clock(l.view.now)
		}
		titles[i], rows[i], limits[i] = l.view.title(s, now), s.sorted(false), l.view.opt.Rows
		used := len(titles[i]) + 1
		if len(rows[i]) > 0 {
			used += 3
		}
		if height > 0 && i > 0 && room < used+1 { // 1: says how many more there are
			shown = i
			break
		}
		room -= used
		if len(rows[i]) > 0 {
			reserved++
		}
	}
	if height > 0 {
		room += reserved
		for i := shown - 1; i >= 0; i-- {
			limit := max(1, min(room/(i+1), len(rows[i])))
			if limits[i] == 0 || limits[i] > limit {
				limits[i] = limit
			}
			room -= min(limits[i], len(rows[i]))
		}
	}

	p := page{color: l.view.opt.Color}
	for i, s := range sections[:shown] {
		for _, line := range titles[i] {
			p.line(heading, "%s", line)
		}
		l.view.rows(&p, rows[i], limits[i], true, false)
		if covered := s.sorted(true); len(covered) > 0 && (height == 0 || room > 2) {
			// Only where the layers' own rows leave room.
			left := 0
			if height > 0 {
				left = min(len(covered), room-2)
				room -= left + 2
			}
			p.line(dim, "  not in the layer:")
			l.view.rows(&p, covered, left, true, true)
		}
		p.text.WriteByte('\n')
	}
	if more := len(sections) - shown; more > 0 {
		p.line(dim, "… and %s", plural(more, "more container", "more containers"))
	}
	for _, n := range l.notes {
		p.line(n.style, "%s", n.text)
	}
	lines := strings.Split(strings.TrimSuffix(p.text.String(), "\n"), "\n")
	if height > 0 && len(lines) >= height {
		lines = lines[:height-1]
	}
	return lines
}

func (s *section) weight() int64 {
	if s.layer == nil {
		return 0
	}
	return max(abs(s.layer.SizeGrowth), abs(s.layer.DiskGrowth))
}

// Close shows the cursor again. It is safe to call twice and after an error.
func (l *Live) Close() error {
	if !l.entered || l.gone != nil {
		return nil
	}
	l.entered = false
	return l.write(leaveLive)
}

func (l *Live) write(text string) error {
	_, err := writeAll(l.w, []byte(text))
	if isClosed(err) {
		l.gone = err
	}
	return err
}
