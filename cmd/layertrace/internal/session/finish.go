package session

import (
	"context"
	"errors"

	"github.com/layertrace/layertrace/internal/output"
	"github.com/layertrace/layertrace/internal/record"
)

// finish ends the session in order: what was counted is collected, each layer is
// held against the disk, and the last records and the summary are written.
func (s *Session) finish(ctx context.Context, ended string) error {
	if ended == record.EndedOutputClosed {
		return nil
	}
	s.ending = true
	if err := s.awaitScans(ctx); err != nil {
		return s.abandon(err)
	}
	if !s.begun {
		s.synced = true // nobody is waited for any more
		if err := s.tellLeftOut(); err != nil {
			return s.abandon(err)
		}
		if err := s.begin(); err != nil {
			return s.abandon(err)
		}
	}
	if err := s.collect(); err != nil {
		return s.abandon(err)
	}
	for _, w := range s.inOrder() {
		if err := s.audit(ctx, w); err != nil {
			return s.abandon(err)
		}
	}

	// Growth of the very last moments counts against the limits as well.
	s.checkLimits(s.cfg.Clock.Now())
	if s.exceeded == nil {
		return s.conclude(ended)
	}
	if err := s.conclude(record.EndedLimit); err != nil && !errors.Is(err, output.ErrClosed) {
		return err
	}
	return s.exceeded
}

// abandon ends the session because of err, and still writes what is known.
func (s *Session) abandon(err error) error {
	switch {
	case errors.Is(err, output.ErrClosed) && s.exceeded != nil:
		return s.exceeded // who asked for the limit sees the exit code
	case errors.Is(err, output.ErrClosed), errors.Is(err, context.Canceled):
		return err
	}
	if s.begun && !ofOutput(err) {
		// The cause is what the user must see, not that this failed as well.
		_ = s.conclude(record.EndedError)
	}
	return err
}

// conclude writes the last records and the summary.
func (s *Session) conclude(ended string) error {
	now := s.cfg.Clock.Now()
	s.measureLogs(true)
	if err := s.emit(s.agg.Final(now)...); err != nil {
		return err
	}
	summary := s.agg.Summary(now, ended)
	// The run is what the stream tells of; reading large layers came before.
	summary.DurationMS = now.Sub(s.began).Milliseconds()
	if err := s.emit(summary); err != nil {
		return err
	}
	return s.flush()
}

// awaitScans lets baselines that are being taken be finished, so that no layer
// ends with half of one. Who cannot wait for a large layer aborts.
func (s *Session) awaitScans(ctx context.Context) error {
	if err := s.endScans(ctx); err != nil {
		return err
	}
	for s.scanning > 0 {
		select {
		case part := <-s.scans:
			if err := s.scanParts(ctx, part); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
