package resolver

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// LogAlarm tells when one of several logs is written or rotated. It rings once for
// each log, and then not again before it is set anew: whoever measures a log that is
// busy is not woken for each line of it. Its methods are safe for concurrent use.
type LogAlarm struct {
	events *os.File // an inotify instance
	rings  chan struct{}
}

// NewLogAlarm returns an alarm that is not set. It fails where the user's inotify
// instances are used up.
func NewLogAlarm() (*LogAlarm, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watching logs: %w", err)
	}
	a := &LogAlarm{events: os.NewFile(uintptr(fd), "inotify"), rings: make(chan struct{}, 1)}
	go a.read()
	return a, nil
}

// read passes events on until the alarm is closed.
func (a *LogAlarm) read() {
	buffer := make([]byte, 1<<14)
	for {
		if _, err := a.events.Read(buffer); err != nil {
			return
		}
		select {
		case a.rings <- struct{}{}:
		default:
		}
	}
}

// Set sets the alarm for logs, by their paths as Container.LogFile has them. One whose
// directory is not there cannot ring, nor need it: with the container it was removed.
func (a *LogAlarm) Set(logs []string) error {
	raw, err := a.events.SyscallConn()
	if err != nil {
		return fmt.Errorf("watching logs: %w", err)
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		for _, log := range logs {
			// The directory's events are those of rotated files, too. Where it is
			// watched already, that watch is renewed.
			_, err := unix.InotifyAddWatch(int(fd), filepath.Dir(log), unix.IN_ONESHOT|unix.IN_MODIFY|unix.IN_CREATE|unix.IN_DELETE|unix.IN_MOVE)
			if err != nil && !errors.Is(err, unix.ENOENT) {
				failed = fmt.Errorf("watching log %s: %w", log, err)
				return
			}
		}
	})
	return errors.Join(err, failed)
}

// Rings has something each time that the alarm rings.
func (a *LogAlarm) Rings() <-chan struct{} { return a.rings }

// Close ends the alarm. It does not ring any more.
func (a *LogAlarm) Close() error { return a.events.Close() }
