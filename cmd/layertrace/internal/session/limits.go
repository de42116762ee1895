package session

import (
	"fmt"
	"time"

	"github.com/layertrace/layertrace/internal/output"
	"github.com/layertrace/layertrace/tracer/event"
)

// rateSpan is the shortest time over which a rate is taken: a burst of a few
// milliseconds says nothing of bytes per second.
const rateSpan = time.Second

// Limits are bounds on each single layer's growth in size. Nil sets none; 0
// allows no growth at all.
type Limits struct {
	Growth *int64 // bytes since the start
	Rate   *int64 // bytes per second, over an interval but at least a second
}

// LimitError says that a layer grew beyond a limit.
type LimitError struct {
	Container string // its name
	Grown     int64  // bytes since the start or, with Rate, bytes per second
	Limit     int64
	Rate      bool
}

func (e *LimitError) Error() string {
	unit := ""
	if e.Rate {
		unit = "/s"
	}
	return fmt.Sprintf("the layer of %s grew by %s%s, more than %s%s",
		e.Container, output.FormatSize(e.Grown), unit, output.FormatSize(e.Limit), unit)
}

// rateWindow is where the measuring of a layer's rate began.
type rateWindow struct {
	since time.Time
	grown int64
}

// checkLimits holds every layer against the limits. The first excess counts.
func (s *Session) checkLimits(now time.Time) {
	for _, w := range s.inOrder() {
		s.checkLimit(w, now)
	}
}

func (s *Session) checkLimit(w *watched, now time.Time) {
	if s.exceeded != nil || !w.seeded || (s.cfg.Limits.Growth == nil && s.cfg.Limits.Rate == nil) {
		return
	}
	totals, ok := s.agg.LayerTotals(w.layer)
	if !ok {
		return
	}
	grown := totals.SizeGrowth
	if limit := s.cfg.Limits.Growth; limit != nil && grown > *limit {
		s.exceeded = &LimitError{Container: w.facts.Name, Grown: grown, Limit: *limit}
		return
	}
	if limit := s.cfg.Limits.Rate; limit != nil {
		if rate := s.rate(w.layer, grown, now); rate > *limit {
			s.exceeded = &LimitError{Container: w.facts.Name, Grown: rate, Limit: *limit, Rate: true}
		}
	}
}

// rate returns the layer's bytes per second since its window began, as if the
// window were over: what is too much before its end is too much at its end.
func (s *Session) rate(id event.LayerID, grown int64, now time.Time) int64 {
	window := s.rates[id]
	span := max(s.cfg.Interval, rateSpan)
	elapsed := now.Sub(window.since)
	rate := int64(float64(grown-window.grown) / max(elapsed, span).Seconds())
	if elapsed >= span {
		s.rates[id] = rateWindow{since: now, grown: grown}
	}
	return rate
}
