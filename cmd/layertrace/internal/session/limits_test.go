package session

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/layertrace/layertrace/cmd/layertrace/internal/sessiontest"
	"github.com/layertrace/layertrace/internal/output"
	"github.com/layertrace/layertrace/internal/record"
	"github.com/layertrace/layertrace/resolver"
)

func bytes(n int64) *int64 { return &n }

func TestLimits(t *testing.T) {
	tests := []struct {
		name   string
		limits Limits
		act    func(*world, resolver.Container)
		want   *LimitError
	}{
		{
			name: "growth up to the limit", limits: Limits{Growth: bytes(4096)},
			act: func(w *world, c resolver.Container) { w.write(c, "a", 1000+4096) },
		},
		{
			name: "growth beyond it", limits: Limits{Growth: bytes(4096)},
			act:  func(w *world, c resolver.Container) { w.write(c, "a", 1000+4097) },
			want: &LimitError{Container: "api", Grown: 4097, Limit: 4096},
		},
		{
			name: "no growth allowed", limits: Limits{Growth: bytes(0)},
			act:  func(w *world, c resolver.Container) { w.write(c, "a", 1001) },
			want: &LimitError{Container: "api", Grown: 1},
		},
		{
			name: "in the last moment", limits: Limits{Growth: bytes(10)},
			act: func(w *world, c resolver.Container) {
				w.write(c, "a", 2000)
				w.stop <- record.EndedSignal
			},
			want: &LimitError{Container: "api", Grown: 1000, Limit: 10},
		},
		{
			name: "and then removed", limits: Limits{Growth: bytes(10)},
			act: func(w *world, c resolver.Container) {
				w.write(c, "a", 2000)
				w.containers.Send(resolver.Removed, c)
			},
			want: &LimitError{Container: "api", Grown: 1000, Limit: 10},
		},
		{
			name: "rate within the limit", limits: Limits{Rate: bytes(1000)},
			act: func(w *world, c resolver.Container) {
				for i := range 6 {
					w.write(c, "a", 1000+1000*(i+1))
					w.sleep(time.Second)
				}
			},
		},
		{
			name: "rate beyond it", limits: Limits{Rate: bytes(1000)},
			act: func(w *world, c resolver.Container) {
				w.sleep(5 * time.Second)
				w.write(c, "a", 1000+1500)
			},
			want: &LimitError{Container: "api", Grown: 1500, Limit: 1000, Rate: true},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := sessiontest.NewContainer(t, "api", map[string]int{"a": 1000})
				w := run(t, func(cfg *Config, _ *world) { cfg.Limits, cfg.Duration = test.limits, 10*time.Second }, c)
				test.act(w, c)
				err := w.end()
				w.wellFormed()
				var limit *LimitError
				ended := of[*record.Summary](w.out)[0].Ended
				if test.want == nil {
					if err != nil || ended != record.EndedDuration {
						t.Errorf("Run: %v, ended by %q", err, ended)
					}
					return
				}
				if !errors.As(err, &limit) || *limit != *test.want || ended != record.EndedLimit {
					t.Errorf("Run: %#v, ended by %q, want %+v", limit, ended, test.want)
				}
			})
		})
	}
}

// TestLimitWithoutReader: that nobody reads any more does not hide a limit.
func TestLimitWithoutReader(t *testing.T) {
	for _, inTheEnd := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			c := sessiontest.NewContainer(t, "api", nil)
			w := run(t, func(cfg *Config, _ *world) { cfg.Limits.Growth = bytes(10) }, c)
			w.out.fail(output.ErrClosed)
			w.write(c, "a", 1000)
			if inTheEnd {
				w.stop <- record.EndedSignal
			}
			var limit *LimitError
			if err := w.end(); !errors.As(err, &limit) {
				t.Errorf("in the end %v: %v", inTheEnd, err)
			}
		})
	}
}
