//go:build linux

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/test/workload/proto"
)

var stdin = bufio.NewReader(os.Stdin)

// waitOp says that everything before it is done, then waits for a line on
// standard input, or its end.
func waitOp(_ *opArgs, _ *proto.Result) error {
	if _, err := os.Stdout.Write(proto.Line{Result: &proto.Result{Op: "waiting"}}.Encode()); err != nil {
		return err
	}
	if _, err := stdin.ReadBytes('\n'); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// signalOp waits for SIGUSR1. That signal is held back from before main begins,
// so it may also come early.
func signalOp(_ *opArgs, _ *proto.Result) error {
	if _, err := os.Stdout.Write(proto.Line{Result: &proto.Result{Op: "waiting"}}.Encode()); err != nil {
		return err
	}
	<-usr1
	return nil
}

var usr1 = func() chan os.Signal {
	c := make(chan os.Signal, 1)
	signal.Notify(c, unix.SIGUSR1)
	return c
}()

var children []*exec.Cmd

// passedDescriptor is where a child finds what it was passed.
const passedDescriptor = 3

// startOp starts exe= with the arguments args=, words separated by commas, and
// goes on. A process has the name of its executable, links not resolved. With
// pass= the child gets the descriptor that is kept for that path.
func startOp(a *opArgs, _ *proto.Result) error {
	cmd := exec.Command(a.path("exe"), strings.Split(a.text("args", ""), ",")...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if path := a.text("pass", ""); path != "" {
		f := kept[path]
		if f == nil {
			return fmt.Errorf("%q is not kept open", path)
		}
		cmd.ExtraFiles = []*os.File{f}
	}
	children = append(children, cmd)
	return cmd.Start()
}

// awaitOp waits for everything that was started.
func awaitOp(_ *opArgs, _ *proto.Result) error {
	var errs []error
	for _, c := range children {
		if err := c.Wait(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", c.Path, err))
		}
	}
	children = nil
	return errors.Join(errs...)
}

func sleepOp(a *opArgs, _ *proto.Result) error {
	time.Sleep(a.duration("for"))
	return nil
}

// setnsOp enters the mount namespace of process pid=, as nsenter does.
func setnsOp(a *opArgs, _ *proto.Result) error {
	f, err := open(fmt.Sprintf("/proc/%d/ns/mnt", a.number("pid", 0)), unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	// Only this thread enters, and all that comes after must run on it. The
	// kernel refuses as long as it shares its working directory with others.
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return err
	}
	return unix.Setns(int(f.Fd()), unix.CLONE_NEWNS)
}

// mountOp mounts an overlay at path=.
func mountOp(a *opArgs, _ *proto.Result) error {
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", a.path("lower"), a.path("upper"), a.path("work"))
	return unix.Mount("overlay", a.path("path"), "overlay", 0, options)
}

func unmountOp(a *opArgs, _ *proto.Result) error { return unix.Unmount(a.path("path"), 0) }
