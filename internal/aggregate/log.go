package aggregate

import (
	"time"

	"github.com/layertrace/layertrace/internal/record"
	"github.com/layertrace/layertrace/tracer/event"
)

// logState is what is known of a container's log. It is no part of the books:
// only carried along, to be told with the layer's totals.
type logState struct {
	record.LogTotals
	known bool
	dirty bool // it changed since the last log record
}

// totals returns a copy for a record; nil if there is no log.
func (s *logState) totals() *record.LogTotals {
	if !s.known {
		return nil
	}
	t := s.LogTotals
	return &t
}

// Log notes how large the container's log is. Growth is computed here. A log
// record is returned by the next Flush if anything changed since the last one.
func (a *Aggregator) Log(id event.LayerID, t record.LogTotals) {
	l := a.layers[id]
	if l == nil {
		return
	}
	t.SizeGrowth, t.DiskGrowth = t.Size-t.BaselineSize, t.Allocated-t.BaselineAllocated
	if l.log.known && l.log.LogTotals == t {
		return
	}
	l.log = logState{LogTotals: t, known: true, dirty: true}
}

// flushLog appends the log record, if there is something to tell.
func (l *layer) flushLog(res []record.Record, now time.Time, always bool) []record.Record {
	if !l.log.known || !l.log.dirty && !always {
		return res
	}
	l.log.dirty = false
	return append(res, &record.Log{
		Header:    record.NewHeader(record.TypeLog, now),
		Container: l.meta,
		Storage:   record.Storage{Class: record.ClassLog},
		LogTotals: l.log.LogTotals,
	})
}
