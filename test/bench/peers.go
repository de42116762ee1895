//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const (
	readyLimit = 2 * time.Minute
	pollPause  = 100 * time.Millisecond
)

// peerError says that another tool does not work here.
type peerError struct{ error }

func (e *peerError) Unwrap() error { return e.error }

const (
	// The sum of what vfs_write returned, by process. What is printed tells that it is attached.
	bpftraceSum = `kretfunc:vfs_write { @written[pid] = sum(retval); } interval:ms:500 { printf("attached\n"); }`
	// A record for each write.
	bpftraceEach = `kretfunc:vfs_write { printf("%d %d\n", pid, retval); } interval:ms:500 { printf("attached\n"); }`
)

var peerModes = []mode{
	{"filetop", peer(catchesInterrupt, "filetop", "--noclear", "--all", "1")},
	{"bpftrace", peer(says("attached"), "bpftrace", "-B", "line", "-e", bpftraceSum)},
	{"bpftrace-each", peer(says("attached"), "bpftrace", "-B", "line", "-e", bpftraceEach)},
	{"fatrace", peer(saysOfUs, "fatrace")},
	{"docker-ps", peer(says("CONTAINER"), "sh", "-c", "while :; do docker ps --all --size; sleep 1; done")},
	{"sysdig", peer(says(" "), "sysdig", "--modern-bpf", "evt.type in (write, writev, pwrite)")},
}

func peerNames() []string {
	var names []string
	for _, m := range peerModes {
		names = append(names, m.name)
	}
	return names
}

// running is another tool at work; it writes to a file, so that nobody has to read.
type running struct {
	cmd            *exec.Cmd
	output, beside string
	ended          chan struct{}
}

func peer(ready func(*running) (bool, error), name string, args ...string) func(context.Context, *ground, *overlay) (func() error, error) {
	return func(ctx context.Context, g *ground, _ *overlay) (func() error, error) {
		fail := func(what any) error { return &peerError{fmt.Errorf("%s does not work here: %v", name, what)} }
		if _, err := exec.LookPath(name); err != nil {
			return nil, fail(err)
		}
		// Not on the file system that is measured.
		f, err := os.CreateTemp("", "layertrace-bench-")
		if err != nil {
			return nil, err
		}
		defer f.Close()
		r := &running{cmd: exec.CommandContext(ctx, name, args...), output: f.Name(), beside: g.archive, ended: make(chan struct{})}
		r.cmd.Stdout, r.cmd.Stderr = f, f
		// It and what it starts end together.
		r.cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
		if err := r.cmd.Start(); err != nil {
			return nil, errors.Join(fail(err), os.Remove(r.output))
		}
		go func() {
			_ = r.cmd.Wait()
			close(r.ended)
		}()
		for deadline := time.Now().Add(readyLimit); ; time.Sleep(pollPause) {
			ok, err := ready(r)
			switch {
			case ok && err == nil:
				return r.stop, nil
			case err != nil:
			case r.over():
				err = errors.New("it ended")
			case time.Now().After(deadline):
				err = errors.New("it does not get ready")
			default:
				continue
			}
			said, _ := os.ReadFile(r.output)
			return nil, errors.Join(fail(fmt.Sprintf("%v: %.300s", err, bytes.TrimSpace(said))), r.stop())
		}
	}
}

func (r *running) over() bool {
	select {
	case <-r.ended:
		return true
	default:
		return false
	}
}

func (r *running) stop() error {
	for _, signal := range []unix.Signal{unix.SIGINT, unix.SIGKILL} {
		if err := unix.Kill(-r.cmd.Process.Pid, signal); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("ending %s: %w", r.cmd.Path, err)
		}
		select {
		case <-r.ended:
		case <-time.After(10 * time.Second):
		}
	}
	<-r.ended
	return os.Remove(r.output)
}

func says(what string) func(*running) (bool, error) {
	return func(r *running) (bool, error) {
		said, err := os.ReadFile(r.output)
		return bytes.Contains(said, []byte(what)), err
	}
}

// saysOfUs opens a file for fatrace to report.
func saysOfUs(r *running) (bool, error) {
	if _, err := os.ReadFile(r.beside); err != nil {
		return false, err
	}
	return says(filepath.Base(r.beside))(r)
}

// catchesInterrupt: filetop installs its handler of SIGINT right after it has attached.
func catchesInterrupt(r *running) (bool, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", r.cmd.Process.Pid))
	if err != nil {
		return false, err
	}
	_, mask, _ := bytes.Cut(status, []byte("\nSigCgt:"))
	mask, _, _ = bytes.Cut(mask, []byte("\n"))
	caught, err := strconv.ParseUint(string(bytes.TrimSpace(mask)), 16, 64)
	if err != nil {
		return false, fmt.Errorf("reading its status: %w", err)
	}
	const interrupt = 1 << 1 // signal n is bit n-1
	return caught&interrupt != 0, nil
}
