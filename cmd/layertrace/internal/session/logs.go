package session

import (
	"errors"
	"io/fs"

	"github.com/layertrace/layertrace/internal/record"
	"github.com/layertrace/layertrace/resolver"
)

// logWatch is what is known of a container's log. It lies beside the layer, on the
// same disk, and is written by the runtime, so it is measured by looking at it.
type logWatch struct {
	meter *resolver.LogMeter // nil as long as the runtime does not tell where it is
	// base is what it took when counting began: nothing, for a container that had
	// no log then.
	base  resolver.LogSizes
	based bool
	last  resolver.LogSizes // as the books have them
}

// baseLog takes the baseline of a log. Of a container that was created after
// counting began the whole log is growth.
func (s *Session) baseLog(w *watched) {
	w.log.based = true
	if s.begun && w.facts.CreatedAt.After(s.began) {
		return
	}
	if sizes, ok := s.readLog(w, true); ok {
		w.log.base = sizes
	}
}

// readLog measures a log; ok is false if there is none, or none any more.
func (s *Session) readLog(w *watched, full bool) (sizes resolver.LogSizes, ok bool) {
	if w.facts.LogPath == "" {
		return resolver.LogSizes{}, false
	}
	if w.log.meter == nil || w.log.meter.Path() != w.facts.LogFile() {
		w.log.meter = resolver.NewLogMeter(w.facts.LogFile())
	}
	sizes, err := w.log.meter.Measure(full)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return resolver.LogSizes{}, false // it was removed with the container
	case err != nil:
		s.log.Debug().Err(err).Str("container", w.facts.Name).Msg("log not measured")
		return resolver.LogSizes{}, false
	}
	return sizes, true
}

// measureLog tells the books how large the container's log is, to be reported with
// the layer's totals, and whether that was news. full is for the last look at it.
func (s *Session) measureLog(w *watched, full bool) (news bool) {
	if w.layer == 0 {
		return false
	}
	if !w.log.based {
		s.baseLog(w)
	}
	sizes, ok := s.readLog(w, full)
	if !ok {
		return false
	}
	news = sizes != w.log.last
	w.log.last = sizes
	totals := record.LogTotals{
		Driver: w.facts.LogDriver, Files: int64(sizes.Files),
		Size: sizes.Size, Allocated: sizes.Allocated,
		BaselineSize: w.log.base.Size, BaselineAllocated: w.log.base.Allocated,
	}
	totals.Path, totals.PathB64 = record.Text(w.facts.LogPath)
	s.agg.Log(w.layer, totals)
	return news
}

// measureLogs measures those of all containers, and tells whether there was news.
func (s *Session) measureLogs(full bool) (news bool) {
	for _, w := range s.byID {
		if s.measureLog(w, full) {
			news = true
		}
	}
	return news
}

// baseLogs takes the baseline of all logs, at the moment at which counting begins.
func (s *Session) baseLogs() {
	for _, w := range s.byID {
		s.baseLog(w)
	}
}
