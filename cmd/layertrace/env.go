package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/layertrace/layertrace/cmd/layertrace/internal/session"
	"github.com/layertrace/layertrace/resolver"
	"github.com/layertrace/layertrace/tracer"
)

// env is everything that the commands use of the world around them.
type env struct {
	stdout, stderr io.Writer
	getenv         func(string) string
	euid           int
	clock          session.Clock
	signals        signals
	// terminal returns the size of the terminal that w writes to; ok is false
	// if it is none.
	terminal func(w io.Writer) (width, height int, ok bool)
	hostname func() string
	// kernelRelease is what uname -r says.
	kernelRelease func() string
	// startTime returns a conversion from nanoseconds since boot.
	startTime func() (func(startNS uint64) time.Time, error)

	// newLogAlarm may fail: then logs are looked at in each interval.
	newLogAlarm func() (logAlarm, error)
	// hostRoot fails where we do not see the host; see resolver.HostRoot.
	hostRoot  func() (string, error)
	newKernel func(tracer.Config) (kernel, error)
	checks    func() []tracer.Check
	// plannedHooks are those that newKernel would attach, without covered paths.
	plannedHooks func() ([]tracer.Hook, error)
	loadModule   func(ctx context.Context, name string) error
	// newRuntime need not connect; it fails if what was chosen cannot be.
	newRuntime func(ctx context.Context, choice runtimeChoice, log zerolog.Logger) (containerRuntime, error)
}

// kernel is what the commands need of *tracer.Tracer.
type kernel interface {
	session.Kernel
	Close() error
}

// logAlarm is what the commands need of *resolver.LogAlarm.
type logAlarm interface {
	session.Alarm
	io.Closer
}

// containerRuntime is what the commands need of *runtimes.
type containerRuntime interface {
	session.Containers
	Find(ctx context.Context, ref string) (resolver.Container, error)
	List(ctx context.Context) ([]resolver.Container, error)
	Names(ctx context.Context) ([]resolver.Listed, error)
	HostPath(m resolver.Mount) string
	Info(ctx context.Context) ([]resolver.EngineInfo, error)
	CgroupController() string
	Close() error
}

// signals is the part of package os/signal that is needed.
type signals struct {
	notify  func(c chan<- os.Signal, sig ...os.Signal)
	stop    func(c chan<- os.Signal)
	ignored func(sig os.Signal) bool
}

func systemEnv() *env {
	return &env{
		stdout:        os.Stdout,
		stderr:        os.Stderr,
		getenv:        os.Getenv,
		euid:          os.Geteuid(),
		clock:         session.SystemClock{},
		signals:       signals{signal.Notify, signal.Stop, signal.Ignored},
		terminal:      terminalSize,
		hostname:      hostname,
		kernelRelease: kernelRelease,
		startTime:     bootTime,
		newLogAlarm:   func() (logAlarm, error) { return resolver.NewLogAlarm() },
		hostRoot:      hostRoot,
		newKernel:     newTracer,
		checks:        tracer.Checks,
		plannedHooks:  func() ([]tracer.Hook, error) { return tracer.PlannedHooks(false) },
		loadModule:    modprobe,
		newRuntime:    newRuntimes,
	}
}

func terminalSize(w io.Writer) (width, height int, ok bool) {
	f, isFile := w.(*os.File)
	if !isFile {
		return 0, 0, false
	}
	width, height, err := term.GetSize(int(f.Fd()))
	return width, height, err == nil
}

func hostname() string {
	name, err := os.Hostname()
	if err != nil {
		return ""
	}
	return name
}

func kernelRelease() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return ""
	}
	return unix.ByteSliceToString(name.Release[:])
}

func bootTime() (func(uint64) time.Time, error) {
	clock, err := resolver.NewBootClock()
	if err != nil {
		return nil, err
	}
	return clock.Time, nil
}

func newTracer(cfg tracer.Config) (kernel, error) {
	t, err := tracer.New(cfg)
	if err != nil {
		return nil, err // not t: a nil *Tracer would make an interface that is not nil
	}
	return t, nil
}

func hostRoot() (string, error) { return resolver.HostRoot("/proc") }
