//go:build linux

package main

import (
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/test/workload/proto"
)

// interruptedOp makes one long call while signals come in that have a handler: a
// call that moves data from from= to path=, or with kind=chmod one that copies path=
// up. Moving data ends with what was moved until the first signal.
func interruptedOp(a *opArgs, res *proto.Result) error {
	kind, path := a.text("kind", ""), a.path("path")
	call := func() (int, error) { return 0, unix.Chmod(path, 0o600) }
	switch kind {
	case "sendfile", "copyrange":
		from, to, size, err := transfer(a)
		if err != nil {
			return err
		}
		defer from.Close()
		defer to.Close()
		call = func() (int, error) { return unix.Sendfile(int(to.Fd()), int(from.Fd()), nil, int(size)) }
		if kind == "copyrange" {
			call = func() (int, error) {
				return unix.CopyFileRange(int(from.Fd()), nil, int(to.Fd()), nil, int(size), 0)
			}
		}
	case "chmod":
	default:
		return fmt.Errorf("unknown kind %q", kind)
	}
	signal.Notify(make(chan os.Signal, 1), unix.SIGUSR2)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	thread, done, sent := unix.Gettid(), make(chan struct{}), make(chan int)
	// So many signals, and not for ever: what is begun again after each would never end.
	go func() { sent <- interrupt(path, thread, kind != "chmod", 20, done) }()
	n, err := call()
	close(done)
	res.Written, res.Writes = int64(max(n, 0)), 1
	res.Detail = fmt.Sprintf("%d signals", <-sent)
	return err
}

// interrupt sends up to count signals to a thread, as soon as the file grows if that
// is to be awaited, and returns how many.
func interrupt(path string, thread int, grows bool, count int, done <-chan struct{}) (sent int) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for sent < count {
		select {
		case <-done:
			return sent
		case <-tick.C:
		}
		var st unix.Stat_t
		if grows && (unix.Lstat(path, &st) != nil || st.Size == 0) {
			continue
		}
		if unix.Tgkill(unix.Getpid(), thread, unix.SIGUSR2) == nil {
			sent++
		}
	}
	return sent
}
