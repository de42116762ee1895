package session

import (
	"context"
	"time"

	"github.com/layertrace/layertrace/resolver"
	"github.com/layertrace/layertrace/tracer"
	"github.com/layertrace/layertrace/tracer/event"
)

// Kernel is what a session needs of *tracer.Tracer. Track, Untrack, Settle, Entry, LookOpen
// and Turn are called by several goroutines, while Wait or Collect run in others.
type Kernel interface {
	AddLayer(id event.LayerID, upper event.Upper) error
	SetMounted(id event.LayerID, ask func() bool) (mounted bool, err error)
	RemoveLayer(id event.LayerID) error
	WatchCgroup(cgroupID uint64, id event.LayerID) error
	UnwatchCgroup(cgroupID uint64) error
	Strays(id event.LayerID) (uint64, error)
	Track(id event.LayerID, dev, inode uint64, mode uint32) (file event.FileID, known bool, err error)
	Settle(dev uint64, file event.FileID, size, allocated int64) (tracer.Settled, error)
	Untrack(dev uint64, file event.FileID) error
	Entry(dev, inode uint64) (tracer.Entry, bool, error)
	LookOpen() (map[int]tracer.Look, error)
	Turn(dev uint64, seen tracer.Entry, size, allocated int64) (ok bool, err error)
	Wait(ctx context.Context) error
	Collect() (*event.Batch, error)
	Hooks() []tracer.Hook
	Coverage() []string
}

// Containers is what a session needs of *resolver.Resolver.
type Containers interface {
	Watch(ctx context.Context, sel resolver.Selection, fn func(resolver.Change)) error
	RefreshMounts(c resolver.Container) resolver.Container
	LayerMounted(c *resolver.Container) bool
	Actor(cgroupID uint64) (containerID string, ok bool)
	ProcessAlive(pid uint32, startNS uint64) bool
}

// Clock tells the time and waits.
type Clock interface {
	Now() time.Time
	// After returns a channel on which the time is sent once, d from now.
	After(d time.Duration) <-chan time.Time
}

// SystemClock is the Clock of the machine.
type SystemClock struct{}

// Now returns the time, with its monotonic reading.
func (SystemClock) Now() time.Time { return time.Now() }

// After is time.After.
func (SystemClock) After(d time.Duration) <-chan time.Time { return time.After(d) }
