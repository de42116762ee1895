package session

import "time"

// restLook is how long a session rests at most: so late is noticed what no
// announcement told of, because it was lost.
const restLook = time.Minute

// Alarm is what a session needs of *resolver.LogAlarm.
type Alarm interface {
	Set(logs []string) error
	Rings() <-chan struct{}
}

// rest lets the session sleep until somebody wakes it, if there is nothing to do: it
// is asked at the end of an interval in which nothing was written.
func (s *Session) rest() {
	if s.busy || s.scanning > 0 || s.audited != nil || len(s.touched) > 0 {
		return
	}
	for _, w := range s.byLayer {
		if len(w.suspects) > 0 {
			return
		}
	}
	select {
	case <-s.roused: // of an activity that has been collected
	default:
	}
	// Who counts from here on rouses after it has made this so.
	if len(s.active) > 0 {
		return
	}
	s.resting = s.watchLogs()
}

// watchLogs has the alarm ring for each log that is written from now on. It is false
// if that is not possible, or one has been written meanwhile.
func (s *Session) watchLogs() bool {
	var logs []string
	for _, w := range s.byID {
		if w.layer != 0 && w.facts.LogPath != "" {
			logs = append(logs, w.facts.LogFile())
		}
	}
	if len(logs) == 0 {
		return true
	}
	if s.cfg.LogAlarm == nil {
		return false
	}
	if err := s.cfg.LogAlarm.Set(logs); err != nil {
		s.log.Debug().Err(err).Msg("logs are looked at in each interval")
		return false
	}
	return !s.measureLogs(false)
}

// rings is the alarm's channel; nil if there is no alarm.
func (s *Session) rings() <-chan struct{} {
	if s.cfg.LogAlarm == nil {
		return nil
	}
	return s.cfg.LogAlarm.Rings()
}

// stir ends a rest. The interval that has begun is one of the grid, and rates are those
// of what comes now.
func (s *Session) stir() {
	s.resting = false
	now := s.cfg.Clock.Now()
	if late := now.Sub(s.nextFlush); late >= 0 {
		s.nextFlush = s.nextFlush.Add(late.Truncate(s.cfg.Interval) + s.cfg.Interval)
	}
	for id := range s.rates {
		if totals, ok := s.agg.LayerTotals(id); ok {
			s.rates[id] = rateWindow{since: now, grown: totals.SizeGrowth}
		}
	}
}
