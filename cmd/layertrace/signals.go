package main

import (
	"context"
	"errors"
	"os"
	"syscall"

	"github.com/layertrace/layertrace/internal/record"
)

// errAborted is the cause of a run that a second signal ended.
var errAborted = errors.New("interrupted: a second signal came before the run had ended")

// handleSignals turns the first signal into an orderly end, by ending the
// start-up and telling stop, and the second into an immediate one, by abort. It
// runs until ctx ends.
//
// SIGHUP ends the run like SIGTERM, but not if keepOnHangup, for streams that
// outlive the terminal, nor if it is ignored already, as under nohup. SIGPIPE
// is caught so that a closed output shows as an error of the write.
func handleSignals(ctx context.Context, s signals, keepOnHangup bool, stop chan<- string, started context.CancelFunc, abort context.CancelCauseFunc) {
	got := make(chan os.Signal, 4)
	list := []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGPIPE}
	if !s.ignored(syscall.SIGHUP) {
		list = append(list, syscall.SIGHUP)
	}
	s.notify(got, list...)
	defer s.stop(got)
	ending := false
	for {
		select {
		case <-ctx.Done():
			return
		case sig := <-got:
			switch {
			case sig == syscall.SIGPIPE, sig == syscall.SIGHUP && keepOnHangup:
			case ending:
				abort(errAborted)
				return
			default:
				ending = true
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
