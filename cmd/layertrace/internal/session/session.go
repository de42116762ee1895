// Package session runs a watch: it takes the baseline of each layer, collects
// what the kernel side counted, has it joined with names, writes it out interval
// by interval, follows the containers' lives and holds the books against the disk.
//
// One goroutine, the caller of Run, owns all state. The others only wait for
// something (a change of a container, activity in the kernel, a directory to be
// read) and hand over what they got; Run does not return before they ended.
package session

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/layertrace/layertrace/internal/aggregate"
	"github.com/layertrace/layertrace/internal/output"
	"github.com/layertrace/layertrace/internal/record"
	"github.com/layertrace/layertrace/resolver"
	"github.com/layertrace/layertrace/tracer"
	"github.com/layertrace/layertrace/tracer/event"
)

const (
	// collectAtLeast bounds how long counters wait in the kernel's tables, whose
	// room is bounded too, however long the user's interval is.
	collectAtLeast = time.Second
	// collectUnasked is how often to look although the kernel side announced
	// nothing, since an announcement may be what was lost.
	collectUnasked = 10 * time.Second
	// scansAtOnce bounds how many layers are read at a time.
	scansAtOnce = 4
	// partsAtOnce bounds how many parts of baselines wait to be booked.
	partsAtOnce = 64
)

// Config configures a Session.
type Config struct {
	Log        zerolog.Logger
	Clock      Clock
	Kernel     Kernel
	Containers Containers
	Output     output.Writer
	// LogAlarm tells of logs that are written while the session rests. Without one it
	// does not rest as long as a container has a log.
	LogAlarm Alarm
	// StartTime converts a process's start, in nanoseconds since boot.
	StartTime func(startNS uint64) time.Time

	// About is the session record without header, interval, hooks and coverage.
	About record.Session

	// Select says which containers to watch. Its Synced belongs to the session.
	Select resolver.Selection
	// Keep goes on although no watched container is left.
	Keep bool
	// RoomHint says how to watch layers with more files than the kernel side has
	// room for. It is for people, beside the warning that one is left out.
	RoomHint string

	Interval time.Duration
	Duration time.Duration // 0: no end
	Limits   Limits

	IncludeCovered   bool
	Include, Exclude []string
	MinGrowth        int64
}

// Session is one run of a watch.
type Session struct {
	cfg Config
	log zerolog.Logger
	agg *aggregate.Aggregator

	byID    map[string]*watched
	byLayer map[event.LayerID]*watched
	ids     layerIDs

	changes  chan change
	later    []change // to be handled before those
	scans    chan scanned
	active   chan struct{} // the kernel side counted something
	resume   chan struct{} // it has been collected
	roused   chan struct{} // follows active, for a loop that rests
	failed   chan error    // a goroutine cannot go on
	stop     <-chan string
	over     <-chan time.Time // the duration's end; nil if there is none
	routines sync.WaitGroup

	begun     bool
	began     time.Time
	synced    bool
	ending    bool
	scanning  int         // baselines that are not in the books yet
	walking   int         // those of them that are being taken
	toWalk    []*baseline // those that are to be
	walked    []scanned   // those whose ends were not dealt with yet
	first     int         // those that the session waits for to begin
	again     []*watched  // baselines that are taken once more, one at a time
	untold    []*watched  // left out, but that was not said yet
	partial   []string
	early     []record.Record // made before the session record
	written   bool            // something was written since the last flush
	nextFlush time.Time
	collected time.Time
	busy      bool // the last collection found something, or was asked for
	resting   bool // nothing is going on: no interval ends before something wakes the loop
	touched   map[touch]struct{}
	rates     map[event.LayerID]rateWindow
	exceeded  *LimitError

	audited *watched // whose layer is being held against the disk
	torn    bool     // that layer is being deleted
	asked   string   // the reason to end that came meanwhile
	broke   error    // what else failed meanwhile
}

// New returns a Session that has not begun. It fails for malformed patterns.
func New(cfg Config) (*Session, error) {
	s := &Session{
		cfg:     cfg,
		log:     cfg.Log,
		byID:    map[string]*watched{},
		byLayer: map[event.LayerID]*watched{},
		changes: make(chan change),
		scans:   make(chan scanned, partsAtOnce),
		active:  make(chan struct{}, 1),
		resume:  make(chan struct{}, 1),
		roused:  make(chan struct{}, 1),
		failed:  make(chan error, 2),
		touched: map[touch]struct{}{},
		rates:   map[event.LayerID]rateWindow{},
	}
	agg, err := aggregate.New(aggregate.Config{
		Start:          cfg.Clock.Now(),
		IncludeCovered: cfg.IncludeCovered,
		Include:        cfg.Include,
		Exclude:        cfg.Exclude,
		MinGrowth:      cfg.MinGrowth,
		Actors:         names{s},
		Mounts:         names{s},
	})
	if err != nil {
		return nil, err
	}
	s.agg = agg
	return s, nil
}

// Run watches until a reason to end arrives on stop (one of the record.Ended
// constants), the duration is over, no container is left, or a limit is
// exceeded; then it writes the last interval and the summary. When ctx ends it
// returns at once, with nothing more written, and ctx's cause.
//
// A reader of the output that went away is an orderly end: Run returns nil.
// Errors match *LimitError, *DriverError and, if the kernel side has no room for
// the files of the only container, tracer.ErrTableFull; others are failures.
func (s *Session) Run(ctx context.Context, stop <-chan string) error {
	inner, cancel := context.WithCancel(ctx)
	defer s.routines.Wait()
	defer cancel()

	s.stop = stop
	s.start(inner)
	err := s.loop(inner)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if errors.Is(err, output.ErrClosed) {
		return nil
	}
	return err
}

// start launches the goroutines that live as long as the session.
func (s *Session) start(ctx context.Context) {
	s.spawn(func() { s.followContainers(ctx) })
	s.spawn(func() { s.awaitActivity(ctx) })
}

func (s *Session) spawn(f func()) {
	s.routines.Add(1)
	go func() {
		defer s.routines.Done()
		f()
	}()
}

// awaitActivity tells the loop once that there is something to collect, and
// then waits until it was collected, so that a busy layer wakes nobody twice.
func (s *Session) awaitActivity(ctx context.Context) {
	for {
		if err := s.cfg.Kernel.Wait(ctx); err != nil {
			if ctx.Err() == nil {
				s.failed <- fmt.Errorf("waiting for the kernel: %w", err)
			}
			return
		}
		s.active <- struct{}{}
		select {
		case s.roused <- struct{}{}:
		default:
		}
		select {
		case <-s.resume:
		case <-ctx.Done():
			return
		}
	}
}

// loop handles one thing at a time until the session ends.
func (s *Session) loop(ctx context.Context) error {
	tick := s.nextTick()
	for {
		if !s.begun && s.synced && s.first == 0 {
			if err := s.begin(); err != nil {
				return s.abandon(err)
			}
			tick = s.nextTick()
			if s.cfg.Duration > 0 {
				s.over = s.cfg.Clock.After(s.cfg.Duration)
			}
		}
		if s.begun && !s.cfg.Keep && !s.anyLeft() {
			return s.finish(ctx, record.EndedContainersGone)
		}

		if len(s.later) > 0 {
			next := s.later[0]
			s.later = s.later[1:]
			if err := s.handle(ctx, next); err != nil {
				return s.abandon(err)
			}
			continue
		}
		if s.asked != "" {
			return s.finish(ctx, s.asked)
		}

		var (
			err           error
			roused, rings <-chan struct{}
		)
		rested := s.resting
		if rested {
			roused, rings = s.roused, s.rings()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case reason := <-s.stop:
			return s.finish(ctx, reason)
		case <-s.over:
			return s.finish(ctx, record.EndedDuration)
		case err = <-s.failed:
		case c := <-s.changes:
			err = s.handle(ctx, c)
		case part := <-s.scans:
			err = s.scanParts(ctx, part)
		case <-roused:
		case <-rings:
		case <-tick:
			err = s.tick()
			tick = s.nextTick()
		}

		if err != nil {
			return s.abandon(err)
		}
		if rested {
			if s.resting {
				s.stir()
			}
			tick = s.nextTick()
		}
		if s.exceeded != nil {
			return s.finish(ctx, record.EndedLimit)
		}
	}
}

// begin writes the session record: from here on every write is seen from its
// first byte. What led up to it follows.
func (s *Session) begin() error {
	if err := s.collect(); err != nil {
		return err
	}
	now := s.cfg.Clock.Now()
	about := s.cfg.About
	about.Header = record.NewHeader(record.TypeSession, now)
	about.IntervalMS = s.cfg.Interval.Milliseconds()
	// Layers on some file systems took further hooks, or cannot be seen in full.
	about.Hooks = HookRecords(s.cfg.Kernel.Hooks())
	about.Coverage = "full"
	if reasons := slices.Concat(s.cfg.Kernel.Coverage(), s.partial); len(reasons) > 0 {
		about.Coverage, about.Reasons = "partial", reasons
	}
	s.baseLogs()
	s.begun, s.began = true, now
	s.nextFlush = now.Add(s.cfg.Interval)
	if err := s.emit(&about); err != nil {
		return err
	}
	early := s.early
	s.early = nil
	for _, rec := range early {
		rec.Head().Time = about.Time // the stream is in the order of time
	}
	if err := s.emit(early...); err != nil {
		return err
	}
	return s.flush()
}

// HookRecords makes hooks part of a record.
func HookRecords(hooks []tracer.Hook) []record.Hook {
	list := make([]record.Hook, len(hooks))
	for i, h := range hooks {
		list[i] = record.Hook{Name: h.Name, Kind: h.Kind, Target: h.Target}
	}
	return list
}

// nextTick is when the interval ends or the kernel's tables want to be read,
// whichever comes first; much later if nothing is going on.
func (s *Session) nextTick() <-chan time.Time {
	switch {
	case !s.begun:
		return s.cfg.Clock.After(collectAtLeast)
	case s.resting:
		return s.cfg.Clock.After(restLook)
	}
	wait := s.nextFlush.Sub(s.cfg.Clock.Now())
	return s.cfg.Clock.After(max(0, min(wait, collectAtLeast)))
}

// tick collects, and if the interval is over writes it.
func (s *Session) tick() error {
	if err := s.collectIfActive(); err != nil || !s.begun {
		return err
	}
	now := s.cfg.Clock.Now()
	s.checkLimits(now)
	if !now.Before(s.nextFlush) {
		if err := s.endInterval(now); err != nil {
			return err
		}
	}
	return s.flush()
}

// endInterval writes the interval. Intervals keep their grid even if one was
// late, so that those of several runs can be laid over each other.
func (s *Session) endInterval(now time.Time) error {
	late := now.Sub(s.nextFlush)
	s.nextFlush = s.nextFlush.Add(late.Truncate(s.cfg.Interval) + s.cfg.Interval)
	s.selfAudit()
	s.measureLogs(false)
	for _, w := range s.byID {
		w.remapped = false
	}
	recs := s.agg.Flush(now)
	if len(recs) == 0 {
		s.rest()
	}
	return s.emit(recs...)
}

// collectIfActive collects if the kernel side announced something, or could have
// but for a lost announcement. After each such collection it collects once more:
// what is counted while one is under way may be announced to it, but be found by
// the next.
func (s *Session) collectIfActive() error {
	if len(s.active) == 0 && !s.busy && s.cfg.Clock.Now().Sub(s.collected) < collectUnasked {
		return nil
	}
	return s.collect()
}

// collect books everything that was counted so far.
func (s *Session) collect() error {
	batch, err := s.cfg.Kernel.Collect()
	if err != nil {
		return fmt.Errorf("reading the kernel's counters: %w", err)
	}
	now := s.cfg.Clock.Now()
	s.ids.collected()
	s.collected, s.busy = now, !batch.Empty()
	select {
	case <-s.active:
		s.busy = true
		s.resume <- struct{}{}
	default:
	}
	s.agg.Apply(batch)
	s.noteTouched(batch)
	s.noteMounted(batch)
	s.noteTorn(batch)
	return s.emit(s.agg.Losses(now)...)
}

// emit hands records to the output, or holds them back until the session record
// has been written.
func (s *Session) emit(recs ...record.Record) error {
	if !s.begun {
		s.early = append(s.early, recs...)
		return nil
	}
	for _, rec := range recs {
		if err := s.cfg.Output.Write(rec); err != nil {
			return writing(err)
		}
		s.written = true
	}
	return nil
}

// flush passes on what was emitted. Without records it does nothing: a table
// would take it for an interval.
func (s *Session) flush() error {
	if !s.begun || !s.written {
		return nil
	}
	s.written = false
	return writing(s.cfg.Output.Flush())
}

// outputError marks errors of the output, after which nothing more is written.
type outputError struct{ error }

func (e outputError) Unwrap() error { return e.error }

func ofOutput(err error) bool {
	var e outputError
	return errors.As(err, &e)
}

func writing(err error) error {
	if err == nil {
		return nil
	}
	return outputError{err}
}
