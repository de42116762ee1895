package main

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// awaitNoReader blocks until nobody reads the pipe or socket w any more, or done
// is closed. An idle watch writes nothing, so no write would tell it that its
// reader has gone. It reports whether the reader has gone; for other kinds of
// output, at once, that it has not.
func awaitNoReader(w io.Writer, done <-chan struct{}) (gone bool, err error) {
	f, ok := w.(*os.File)
	if !ok || !hasReader(f) {
		return false, nil
	}
	wakeR, wakeW, err := os.Pipe()
	if err != nil {
		return false, err
	}
	defer wakeR.Close()
	waker := make(chan struct{})
	returned := make(chan struct{})
	go func() {
		defer close(waker)
		select {
		case <-done:
		case <-returned:
		}
		wakeW.Close() // poll sees the hangup
	}()
	defer func() { close(returned); <-waker }()

	// No events asked for: errors and hangups are always reported.
	fds := []unix.PollFd{{Fd: int32(f.Fd())}, {Fd: int32(wakeR.Fd())}}
	for {
		_, err := unix.Poll(fds, -1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return false, os.NewSyscallError("poll", err)
		}
		if fds[0].Revents&(unix.POLLERR|unix.POLLHUP|unix.POLLNVAL) != 0 {
			return true, nil
		}
		if fds[1].Revents != 0 {
			return false, nil
		}
	}
}

func hasReader(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&(os.ModeNamedPipe|os.ModeSocket) != 0
}
