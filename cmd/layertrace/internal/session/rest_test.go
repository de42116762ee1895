package session

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/layertrace/layertrace/cmd/layertrace/internal/sessiontest"
	"github.com/layertrace/layertrace/internal/record"
)

// alarm is one that a test rings.
type alarm struct {
	mu    sync.Mutex
	logs  []string
	set   int
	err   error
	rings chan struct{}
}

func (a *alarm) Set(logs []string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.logs, a.set = logs, a.set+1
	return a.err
}

func (a *alarm) Rings() <-chan struct{} { return a.rings }

// TestRest: while nothing happens the session does next to nothing, and what happens
// then is told at the end of an interval of the grid.
func TestRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sessiontest.NewContainer(t, "api", map[string]int{"f": 10})
		var collections atomic.Int64
		w := run(t, func(_ *Config, w *world) { w.kernel.OnCollect = func() { collections.Add(1) } }, c)
		began := of[*record.Session](w.out)[0].Time
		w.sleep(30 * time.Second) // it may look at what it has booked for a while
		before := collections.Load()
		w.sleep(10 * time.Minute)
		if n := collections.Load() - before; n > 20 {
			t.Errorf("%d collections in ten minutes in which nothing happened", n)
		}
		time.Sleep(300 * time.Millisecond)
		at := time.Now()
		w.write(c, "f", 110)
		w.sleep(time.Second)
		told := of[*record.Growth](w.out)
		if len(told) != 1 || told[0].SizeGrowth != 100 {
			t.Fatalf("told: %+v", told)
		}
		when := told[0].Time.Time
		if late := when.Sub(at); late > time.Second || when.Sub(began.Time)%time.Second != 0 {
			t.Errorf("told %s after the write, %s after the beginning", late, when.Sub(began.Time))
		}
		w.finish()
		w.equalsDisk(c)
	})
}

// TestRestAndRate: a burst after a rest is not taken for the rate of all that time.
func TestRestAndRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sessiontest.NewContainer(t, "api", nil)
		limit := int64(1000)
		w := run(t, func(cfg *Config, _ *world) { cfg.Limits.Rate = &limit }, c)
		w.sleep(10 * time.Minute)
		w.write(c, "f", 5000)
		w.sleep(2 * time.Second)
		var exceeded *LimitError
		if err := w.end(); !errors.As(err, &exceeded) || !exceeded.Rate {
			t.Errorf("Run: %v", err)
		}
	})
}

// TestRestBesideLogs: a log wakes the session when it is written. Where that cannot be
// told, it is looked at in each interval.
func TestRestBesideLogs(t *testing.T) {
	for name, broken := range map[string]error{"told": nil, "not told": errors.New("no inotify")} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := withLog(t, sessiontest.NewContainer(t, "api", nil), 1000)
				a := &alarm{err: broken, rings: make(chan struct{}, 1)}
				w := run(t, func(cfg *Config, _ *world) { cfg.LogAlarm = a }, c)
				w.sleep(10 * time.Minute)
				a.mu.Lock()
				if !slices.Equal(a.logs, []string{c.LogPath}) || a.set > 40 && broken == nil {
					t.Errorf("set for %q, %d times", a.logs, a.set)
				}
				a.mu.Unlock()
				sessiontest.Write(t, c.LogPath, 3000)
				if broken == nil {
					a.rings <- struct{}{}
				}
				w.sleep(2 * time.Second)
				logs := of[*record.Log](w.out)
				if last := logs[len(logs)-1]; last.SizeGrowth != 2000 {
					t.Errorf("the log: %+v", last)
				}
				w.finish()
			})
		})
	}
}
