package main

import (
	"context"
	"errors"
	"os"
	"syscall"
	"time"

	"github.com/layertrace/layertrace/internal/record"
)

// errAborted is the cause of a run that a second signal ended.
var errAborted = errors.New("interrupted: a second signal came before the run had ended")

// sameSignal is how long after the first signal others are taken for the same one:
// timeout(1) sends its own to the process and then to its group, and so does a
// terminal together with whoever passes signals on.
const sameSignal = time.Second

// handleSignals turns the first signal into an orderly end, by ending the
// start-up and telling stop, and a later one into an immediate one, by abort. It
// runs until ctx ends.
//
// SIGHUP ends the run like SIGTERM, but not if keepOnHangup, for streams that
// outlive the terminal, nor if it is ignored already, as under nohup. SIGPIPE
// is caught so that a closed output shows as an error of the write.
func (e *env) handleSignals(ctx context.Context, keepOnHangup bool, stop chan<- string, started context.CancelFunc, abort context.CancelCauseFunc) {
	got := make(chan os.Signal, 4)
	list := []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGPIPE}
	if !e.signals.ignored(syscall.SIGHUP) {
		list = append(list, syscall.SIGHUP)
	}
	e.signals.notify(got, list...)
	defer e.signals.stop(got)
	var first time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case sig := <-got:
			switch {
			case sig == syscall.SIGPIPE, sig == syscall.SIGHUP && keepOnHangup:
			case !first.IsZero() && e.clock.Now().Sub(first) < sameSignal:
			case !first.IsZero():
				abort(errAborted)
				return
			default:
				first = e.clock.Now()
				started()
				tell(stop, record.EndedSignal)
			}
		}
	}
}

// tell hands over a reason to end unless another one is there already.
func tell(stop chan<- string, reason string) {
	select {
	case stop <- reason:
	default:
	}
}
