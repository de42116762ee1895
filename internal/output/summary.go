package output

import (
	"fmt"
	"strings"
	"time"

	"github.com/layertrace/layertrace/internal/record"
)

// summarize tells a run in words.
func summarize(p *page, s *record.Summary, drivers map[string]string) {
	ended := map[string]string{
		record.EndedSignal:         "ended by a signal",
		record.EndedDuration:       "the duration is over",
		record.EndedContainersGone: "no container is left",
		record.EndedLimit:          "a limit was exceeded",
		record.EndedOutputClosed:   "the output was closed",
		record.EndedError:          "ended by an error",
	}[s.Ended]
	if ended == "" {
		ended = Printable(s.Ended)
	}
	p.line(heading, "Watched %s for %s; %s.", plural(len(s.Containers), "container", "containers"),
		(time.Duration(s.DurationMS) * time.Millisecond).String(), ended)
	for i := range s.Containers {
		c := &s.Containers[i]
		p.text.WriteByte('\n')
		summarizeContainer(p, c, drivers[c.Container.ID])
	}
	if u := s.Unlisted; u != nil {
		p.text.WriteByte('\n')
		p.line(plain, "%s came and went: %s in all, disk %s.", plural(u.Containers, "more container", "more containers"),
			FormatGrowth(u.SizeGrowth), FormatGrowth(u.DiskGrowth))
	}
	p.text.WriteByte('\n')
	if len(s.Losses) == 0 {
		p.line(plain, "Nothing was lost on the way.")
		return
	}
	p.line(red, "Losses:")
	for _, l := range s.Losses {
		text := lossMeaning(l.Reason) + ", " + plural(l.Events, "event", "events")
		if l.Bytes != 0 {
			text += fmt.Sprintf(", %s counted as unattributed", FormatSize(l.Bytes))
		}
		p.line(plain, "  %s", text)
	}
}

func summarizeContainer(p *page, c *record.ContainerSummary, driver string) {
	name := containerName(c.Container)
	if c.Container.Image != "" {
		name += " (" + Printable(c.Container.Image) + ")"
	}
	p.line(heading, "%s", name)
	size, disk := tools(&c.Container, driver)
	if size != "" {
		size = " (" + size + ")"
	}
	p.line(plain, "  The layer %s%s.", change(c.SizeGrowth, c.Size), size)
	p.line(plain, "  On disk it %s (%s).", change(c.DiskGrowth, c.Allocated), disk)
	if c.Removed {
		p.line(plain, "  The container was removed, and its layer with it.")
	}
	text := fmt.Sprintf("  Its processes wrote %s into it", FormatSize(int64(c.WrittenBytes)))
	if c.CopyUpBytes != 0 {
		text += fmt.Sprintf("; %s were copied up from the image", FormatSize(c.CopyUpBytes))
	}
	p.line(plain, "%s.", text)
	if c.UnattributedSize != 0 || c.UnattributedDisk != 0 {
		p.line(yellow, "  Unattributed: %s, disk %s.", FormatGrowth(c.UnattributedSize), FormatGrowth(c.UnattributedDisk))
	} else {
		p.line(plain, "  All of it was attributed.")
	}
	if c.OpenDeletedBytes != 0 {
		p.line(yellow, "  Deleted files that are still open hold %s more on the disk.", FormatSize(c.OpenDeletedBytes))
	}
	if c.FilteredSizeGrowth != 0 || c.FilteredDiskGrowth != 0 {
		p.line(plain, "  The filters kept back %s, disk %s.", FormatGrowth(c.FilteredSizeGrowth), FormatGrowth(c.FilteredDiskGrowth))
	}
	if text := logSentence(c.Log); text != "" {
		p.line(plain, "  %s", text)
	}

	if len(c.TopFiles) > 0 {
		p.line(plain, "  Heaviest files:")
	}
	list := make([][4]string, 0, len(c.TopFiles))
	for _, f := range c.TopFiles {
		path := Printable(record.Raw(f.Path, f.PathB64))
		if path == "" {
			path = unknownFile
		}
		list = append(list, [4]string{FormatGrowth(f.SizeGrowth), FormatGrowth(f.DiskGrowth), FormatSize(int64(f.WrittenBytes)), path})
	}
	ranking(p, list)

	if len(c.TopProcesses) > 0 {
		p.line(plain, "  Heaviest processes:")
	}
	list = list[:0]
	for _, t := range c.TopProcesses {
		who := Printable(record.Raw(t.Name, t.NameB64))
		if t.Executable != "" {
			who = strings.TrimSpace(who + " (" + Printable(record.Raw(t.Executable, t.ExecutableB64)) + ")")
		}
		if t.Processes != 1 {
			who += fmt.Sprintf(" ×%d", t.Processes)
		}
		list = append(list, [4]string{FormatGrowth(t.SizeGrowth), FormatGrowth(t.DiskGrowth), FormatSize(int64(t.WrittenBytes)), who})
	}
	ranking(p, list)

	if len(c.Covered) > 0 {
		p.line(plain, "  Written outside of the layer:")
	}
	for _, v := range c.Covered {
		where := ""
		if v.Storage.Name != "" && v.Storage.Destination != "" {
			where = " at " + Printable(record.Raw(v.Storage.Destination, v.Storage.DestinationB64))
		}
		p.line(plain, "    %s to %s%s, where files grew by %s", FormatSize(int64(v.WrittenBytes)),
			storageText(v.Storage), where, FormatGrowth(v.SizeGrowth))
	}
}

// change says what became of a size.
func change(growth, now int64) string {
	switch {
	case growth > 0:
		return fmt.Sprintf("grew by %s to %s", FormatSize(growth), FormatSize(now))
	case growth < 0:
		return fmt.Sprintf("shrank by %s to %s", FormatSize(-growth), FormatSize(now))
	default:
		return "is as large as before, " + FormatSize(now)
	}
}

// ranking lays out growth, disk growth and bytes written in columns.
func ranking(p *page, list [][4]string) {
	var widths [3]int
	for _, x := range list {
		for i := range widths {
			widths[i] = max(widths[i], columns(x[i]))
		}
	}
	for _, x := range list {
		p.line(plain, "    %s  disk %s  written %s  %s",
			pad(x[0], widths[0], true), pad(x[1], widths[1], true), pad(x[2], widths[2], true), x[3])
	}
}
