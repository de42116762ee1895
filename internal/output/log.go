package output

import (
	"fmt"

	"github.com/layertrace/layertrace/internal/record"
)

// logPart adds the container's log to the parts of a title, if there is anything
// in it. It is named as what it is not, because it is often taken for that.
func (s *section) logPart(parts []string) []string {
	l := s.log
	if l == nil || l.Allocated == 0 && l.Size == 0 && l.SizeGrowth == 0 && l.DiskGrowth == 0 {
		return parts
	}
	return append(parts, fmt.Sprintf("log %s, %s (%s, not in the layer)", FormatSize(l.Size), FormatGrowth(l.SizeGrowth), Printable(l.Driver)))
}

// logSentence tells of a container's log in a summary; empty if there is nothing
// in it.
func logSentence(l *record.LogTotals) string {
	if l == nil || l.Allocated == 0 && l.Size == 0 && l.SizeGrowth == 0 && l.DiskGrowth == 0 {
		return ""
	}
	return fmt.Sprintf("Beside the layer, its log %s: %s.", change(l.SizeGrowth, l.Size), Printable(record.Raw(l.Path, l.PathB64)))
}
