package resolver

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// pollEvery is how often engines look that nobody tells of changes.
const pollEvery = 200 * time.Millisecond

// seen is how a container looked.
type seen struct {
	name    string
	state   State
	pid     int
	started time.Time
}

// pollEvents makes events of the differences between one look and the next. It
// looks at regular intervals and whenever wake has something. The first look is
// over when it returns, so what happens later is not left out.
func pollEvents(ctx context.Context, wake <-chan struct{}, look func() (map[string]seen, error)) (<-chan Event, <-chan error) {
	out, failed := make(chan Event, dockerBacklog), make(chan error, 1)
	before, err := look()
	if err != nil {
		failed <- err
		return out, failed
	}
	go func() {
		ticker := time.NewTicker(pollEvery)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				failed <- fmt.Errorf("following events: %w", ctx.Err())
				return
			case <-ticker.C:
			case <-wake:
			}
			now, err := look()
			if err != nil {
				failed <- err
				return
			}
			for _, e := range differences(before, now, time.Now()) {
				select {
				case out <- e:
				case <-ctx.Done():
				}
			}
			before = now
		}
	}()
	return out, failed
}

// differences returns what happened between two looks, as far as it shows.
func differences(before, now map[string]seen, at time.Time) []Event {
	var events []Event
	add := func(id, action string) { events = append(events, Event{ID: id, Action: action, Time: at}) }
	for _, id := range slices.Sorted(maps.Keys(before)) {
		if _, ok := now[id]; !ok {
			if before[id].pid != 0 {
				add(id, "die")
			}
			add(id, "destroy")
		}
	}
	for _, id := range slices.Sorted(maps.Keys(now)) {
		was, known := before[id]
		is := now[id]
		again := was.pid != is.pid || !was.started.Equal(is.started)
		if !known {
			add(id, "create")
		}
		if was.pid != 0 && again {
			add(id, "die")
		}
		if is.pid != 0 && again {
			add(id, "start")
		}
		if known && was.name != is.name {
			add(id, "rename")
		}
	}
	return events
}

// watchDirs sends to wake, without waiting, when entries of the directories change,
// until ctx ends. Directories that cannot be watched are looked at less often, by
// those who poll anyway.
func watchDirs(ctx context.Context, dirs []string, wake chan<- struct{}) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		return
	}
	for _, dir := range dirs {
		_, _ = unix.InotifyAddWatch(fd, dir, unix.IN_MOVED_TO|unix.IN_CREATE|unix.IN_CLOSE_WRITE|unix.IN_DELETE)
	}
	go func() {
		defer unix.Close(fd)
		buffer := make([]byte, 1<<14)
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		for ctx.Err() == nil {
			// The limit is for the end of ctx.
			n, err := unix.Poll(fds, int(pollEvery.Milliseconds()))
			if err != nil && err != unix.EINTR {
				return
			}
			if n <= 0 {
				continue
			}
			if _, err := unix.Read(fd, buffer); err != nil {
				return
			}
			select {
			case wake <- struct{}{}:
			default:
			}
		}
	}()
}
