//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

const (
	readyLimit = 60 * time.Second
	stopLimit  = 30 * time.Second
	pollPause  = 100 * time.Millisecond
)

// tool is a program that watches while the layer changes. Its output goes to files, so that nobody
// has to read it while it runs.
type tool struct {
	name        string
	cmd         *exec.Cmd
	output, log string
	ended       chan struct{} // closed when it has been waited for
	result      error         // of the waiting
}

// launch starts a program, whose output goes to files in dir.
func launch(ctx context.Context, dir, program string, args ...string) (*tool, error) {
	t := &tool{name: filepath.Base(program), ended: make(chan struct{})}
	t.output, t.log = filepath.Join(dir, t.name+".out"), filepath.Join(dir, t.name+".err")
	stdout, err := os.Create(t.output)
	if err != nil {
		return nil, err
	}
	defer stdout.Close()
	stderr, err := os.Create(t.log)
	if err != nil {
		return nil, err
	}
	defer stderr.Close()
	t.cmd = exec.CommandContext(ctx, program, args...)
	t.cmd.Stdout, t.cmd.Stderr = stdout, stderr
	if err := t.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		t.result = t.cmd.Wait()
		close(t.ended)
	}()
	return t, nil
}

// ready waits until attached says so.
func (t *tool) ready(attached func() (bool, error)) error {
	err := poll(readyLimit, func() (bool, error) {
		select {
		case <-t.ended:
			return false, t.complaint("it ended")
		default:
			return attached()
		}
	})
	if errors.Is(err, errLate) {
		return t.complaint("it did not attach")
	}
	return err
}

// stop ends it as Ctrl-C does and returns what it said.
func (t *tool) stop() (string, error) {
	if err := t.cmd.Process.Signal(os.Interrupt); err != nil {
		return "", t.complaint("it had ended before")
	}
	select {
	case <-t.ended:
	case <-time.After(stopLimit):
		t.kill()
		return "", t.complaint("it did not end")
	}
	if t.result != nil {
		return "", t.complaint(t.result.Error())
	}
	return t.said()
}

func (t *tool) kill() {
	_ = t.cmd.Process.Kill()
	<-t.ended
}

// said is its output so far.
func (t *tool) said() (string, error) {
	text, err := os.ReadFile(t.output)
	return string(text), err
}

// complaint is an error with the last of what it wrote to standard error.
func (t *tool) complaint(what string) error {
	text, err := os.ReadFile(t.log)
	if err != nil {
		return fmt.Errorf("%s; %w", what, err)
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return fmt.Errorf("%s: %s", what, strings.Join(lines[max(0, len(lines)-3):], "; "))
}

var errLate = errors.New("took too long")

// poll waits until fn returns true or an error.
func poll(limit time.Duration, fn func() (bool, error)) error {
	for deadline := time.Now().Add(limit); ; time.Sleep(pollPause) {
		if done, err := fn(); done || err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return errLate
		}
	}
}
