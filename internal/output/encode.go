package output

import (
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/layertrace/layertrace/internal/record"
)

// growthEncoder writes growth records as encoding/json would, several times as
// fast: they are the only records of which there may be very many. Container and
// process, which repeat from record to record, are encoded once.
type growthEncoder struct {
	container     record.Container
	containerJSON []byte
	process       *record.Process
	processCopy   record.Process // what process pointed to, should it be reused
	processJSON   []byte
}

func (e *growthEncoder) append(b []byte, g *record.Growth) []byte {
	b = append(b, `{"type":`...)
	b = appendString(b, g.Type)
	b = append(b, `,"v":`...)
	b = strconv.AppendInt(b, int64(g.V), 10)
	b = append(b, `,"time":"`...)
	b, _ = g.Time.AppendText(b)
	b = append(b, `","seq":`...)
	b = strconv.AppendUint(b, g.Seq, 10)

	if e.containerJSON == nil || e.container != g.Container {
		e.container = g.Container
		e.containerJSON = appendContainer(e.containerJSON[:0], &g.Container)
	}
	b = append(b, `,"container":`...)
	b = append(b, e.containerJSON...)

	b = append(b, `,"process":`...)
	if g.Process == nil {
		b = append(b, "null"...)
	} else {
		if e.process != g.Process || e.processCopy != *g.Process {
			e.process, e.processCopy = g.Process, *g.Process
			e.processJSON = appendProcess(e.processJSON[:0], g.Process)
		}
		b = append(b, e.processJSON...)
	}

	f := &g.File
	b = append(b, `,"file":{"path":`...)
	b = appendString(b, f.Path)
	b = appendOptional(b, `,"path_b64":`, f.PathB64)
	if f.PathIncomplete {
		b = append(b, `,"path_incomplete":true`...)
	}
	b = appendOptional(b, `,"previous_path":`, f.PreviousPath)
	b = appendOptional(b, `,"previous_path_b64":`, f.PreviousPathB64)
	b = appendOptional(b, `,"origin":`, f.Origin)
	b = appendInt(b, `,"size":`, f.Size)
	b = appendInt(b, `,"allocated":`, f.Allocated)
	b = appendBool(b, `,"deleted":`, f.Deleted)
	b = appendUint(b, `,"inode":`, f.Inode)

	b = append(b, `},"storage":{"class":`...)
	b = appendString(b, g.Storage.Class)
	b = appendOptional(b, `,"destination":`, g.Storage.Destination)
	b = appendOptional(b, `,"destination_b64":`, g.Storage.DestinationB64)
	b = appendOptional(b, `,"source":`, g.Storage.Source)
	b = appendOptional(b, `,"source_b64":`, g.Storage.SourceB64)
	b = appendOptional(b, `,"name":`, g.Storage.Name)

	b = appendUint(b, `},"written_bytes":`, g.WrittenBytes)
	b = appendUint(b, `,"writes":`, g.Writes)
	b = appendInt(b, `,"size_growth":`, g.SizeGrowth)
	b = appendInt(b, `,"disk_growth":`, g.DiskGrowth)
	b = appendInt(b, `,"copy_up_bytes":`, g.CopyUpBytes)
	b = append(b, `,"causes":[`...)
	for i, c := range g.Causes {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(b, c)
	}
	return append(b, "]}\n"...)
}

func appendContainer(b []byte, c *record.Container) []byte {
	b = append(b, `{"id":`...)
	b = appendString(b, c.ID)
	b = append(b, `,"name":`...)
	b = appendString(b, c.Name)
	b = appendOptional(b, `,"name_b64":`, c.NameB64)
	b = append(b, `,"image":`...)
	b = appendString(b, c.Image)
	b = append(b, `,"runtime":`...)
	b = appendString(b, c.Runtime)
	if k := c.Kubernetes; k != nil {
		b = append(b, `,"kubernetes":{"namespace":`...)
		b = appendString(b, k.Namespace)
		b = append(b, `,"pod":`...)
		b = appendString(b, k.Pod)
		b = appendOptional(b, `,"pod_uid":`, k.PodUID)
		b = appendOptional(b, `,"container":`, k.Container)
		b = append(b, '}')
	}
	return append(b, '}')
}

func appendProcess(b []byte, p *record.Process) []byte {
	b = appendUint(b, `{"pid":`, uint64(p.PID))
	if p.ParentPID != 0 {
		b = appendUint(b, `,"parent_pid":`, uint64(p.ParentPID))
	}
	b = append(b, `,"name":`...)
	b = appendString(b, p.Name)
	b = appendOptional(b, `,"name_b64":`, p.NameB64)
	b = append(b, `,"executable":`...)
	b = appendString(b, p.Executable)
	b = appendOptional(b, `,"executable_b64":`, p.ExecutableB64)
	b = append(b, `,"start_time":"`...)
	b = p.StartTime.AppendFormat(b, time.RFC3339Nano)
	b = append(b, '"')
	b = appendOptional(b, `,"container_id":`, p.ContainerID)
	b = appendBool(b, `,"exited":`, p.Exited)
	return append(b, '}')
}

func appendInt(b []byte, key string, n int64) []byte {
	return strconv.AppendInt(append(b, key...), n, 10)
}

func appendUint(b []byte, key string, n uint64) []byte {
	return strconv.AppendUint(append(b, key...), n, 10)
}

func appendBool(b []byte, key string, v bool) []byte {
	return strconv.AppendBool(append(b, key...), v)
}

// appendOptional leaves the field out if it is empty.
func appendOptional(b []byte, key, s string) []byte {
	if s == "" {
		return b
	}
	return appendString(append(b, key...), s)
}

// appendString quotes s, without regard to HTML.
func appendString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	from := 0 // of what is copied as it is
	for i := 0; i < len(s); {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' && c < utf8.RuneSelf {
			i++
			continue
		}
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRuneInString(s[i:])
			if r != utf8.RuneError || n > 1 {
				if r == '\u2028' || r == '\u2029' { // ends a line in JavaScript
					b = append(b, s[from:i]...)
					b = append(b, `\u202`...)
					b = append(b, hex[r&0xf])
					from = i + n
				}
				i += n
				continue
			}
			b = append(b, s[from:i]...)
			b = append(b, `\ufffd`...)
		} else {
			b = append(b, s[from:i]...)
			switch c {
			case '"', '\\':
				b = append(b, '\\', c)
			case '\n':
				b = append(b, `\n`...)
			case '\r':
				b = append(b, `\r`...)
			case '\t':
				b = append(b, `\t`...)
			case '\b':
				b = append(b, `\b`...)
			case '\f':
				b = append(b, `\f`...)
			default:
				b = append(b, `\u00`...)
				b = append(b, hex[c>>4], hex[c&0xf])
			}
		}
		i++
		from = i
	}
	b = append(b, s[from:]...)
	return append(b, '"')
}
