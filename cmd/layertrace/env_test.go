package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/layertrace/layertrace/cmd/layertrace/internal/session"
	"github.com/layertrace/layertrace/cmd/layertrace/internal/sessiontest"
	"github.com/layertrace/layertrace/internal/output/outputtest"
	"github.com/layertrace/layertrace/resolver"
	"github.com/layertrace/layertrace/tracer"
)

// buffer is an output that may be read while it is written to.
type buffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
	err error // of every write, if not nil
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil {
		return 0, b.err
	}
	return b.buf.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// world is a machine on which the command line runs.
type world struct {
	*testing.T
	env            *env
	stdout, stderr *buffer
	vars           map[string]string
	kernel         *sessiontest.Kernel
	cfg            tracer.Config // of the last call of newKernel
	containers     *sessiontest.Containers
	kernelErrs     []error // of the next calls of newKernel
	modules        []string
	view           error    // of looking at the host
	hosts          []string // that were asked for

	mu       sync.Mutex
	notified chan<- os.Signal
	wanted   []os.Signal
	ignored  os.Signal
	code     chan int
}

func newWorld(t *testing.T, list ...resolver.Container) *world {
	t.Helper()
	w := &world{
		T: t, stdout: &buffer{}, stderr: &buffer{}, vars: map[string]string{},
		kernel: sessiontest.NewKernel(), containers: sessiontest.NewContainers(list...),
		code: make(chan int, 1),
	}
	w.env = &env{
		stdout: w.stdout, stderr: w.stderr,
		getenv: func(name string) string { return w.vars[name] },
		clock:  session.SystemClock{},
		signals: signals{
			notify:  w.notify,
			stop:    func(chan<- os.Signal) {},
			ignored: func(sig os.Signal) bool { return sig == w.ignored },
		},
		terminal:      func(io.Writer) (int, int, bool) { return 0, 0, false },
		hostname:      func() string { return "host" },
		kernelRelease: func() string { return "6.1.0" },
		newLogAlarm:   func() (logAlarm, error) { return nil, errors.ErrUnsupported },
		startTime: func() (func(uint64) time.Time, error) {
			return func(uint64) time.Time { return time.Unix(0, 0) }, nil
		},
		hostRoot:     func() (string, error) { return "", w.view },
		newKernel:    w.newKernel,
		checks:       func() []tracer.Check { return []tracer.Check{{Name: "BTF", OK: true, Required: true, Detail: "there"}} },
		plannedHooks: func() ([]tracer.Hook, error) { return w.kernel.Hooks(), nil },
		loadModule: func(_ context.Context, name string) error {
			w.modules = append(w.modules, name)
			return nil
		},
		newRuntime: func(_ context.Context, choice runtimeChoice, _ zerolog.Logger) (containerRuntime, error) {
			switch choice.name {
			case resolver.RuntimeContainerd, resolver.RuntimePodman:
				return nil, &resolver.RuntimeError{Runtime: choice.name, Err: fs.ErrNotExist}
			}
			w.hosts = append(w.hosts, choice.dockerHost)
			return w.containers, nil
		},
	}
	return w
}

func (w *world) newKernel(cfg tracer.Config) (kernel, error) {
	w.cfg = cfg
	if len(w.kernelErrs) > 0 {
		err := w.kernelErrs[0]
		w.kernelErrs = w.kernelErrs[1:]
		if err != nil {
			return nil, err
		}
	}
	return w.kernel, nil
}

func (w *world) notify(c chan<- os.Signal, sig ...os.Signal) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.notified, w.wanted = c, sig
}

// signal delivers a signal if the program asked for it.
func (w *world) signal(sig os.Signal) {
	w.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.Contains(w.wanted, sig) {
		w.Fatalf("%v would have its default effect", sig)
	}
	w.notified <- sig
}

// run executes a command line to its end.
func (w *world) run(args ...string) int { return run(w.Context(), w.env, args) }

// start executes a command line in a synctest bubble and waits until it waits.
func (w *world) start(args ...string) {
	go func() { w.code <- w.run(args...) }()
	synctest.Wait()
}

// exit waits for the end of what start began.
func (w *world) exit() int {
	w.Helper()
	select {
	case code := <-w.code:
		return code
	case <-time.After(24 * time.Hour):
		w.Fatal("it does not end")
		return -1
	}
}

// expect checks the exit code and that stderr says exactly what is wanted.
func (w *world) expect(got, code int, stderr ...string) {
	w.Helper()
	want := strings.Join(stderr, "\n")
	if want != "" {
		want += "\n"
	}
	if got != code || w.stderr.String() != want {
		w.Errorf("exit code %d, want %d; stderr:\n%swant:\n%s", got, code, w.stderr.String(), want)
	}
}

// records decodes stdout as NDJSON.
func (w *world) records() []map[string]any {
	w.Helper()
	var all []map[string]any
	for line := range strings.Lines(w.stdout.String()) {
		if err := outputtest.Validate([]byte(line)); err != nil {
			w.Error(err)
		}
		var rec map[string]any
		if err := json.Unmarshal([]byte(line), &rec); err != nil {
			w.Fatalf("%q: %v", line, err)
		}
		if seq := rec["seq"]; seq != float64(len(all)+1) {
			w.Errorf("record %d has seq %v", len(all)+1, seq)
		}
		all = append(all, rec)
	}
	return all
}

// last returns the last record.
func (w *world) last() map[string]any {
	w.Helper()
	all := w.records()
	if len(all) == 0 {
		w.Fatal("no records")
	}
	return all[len(all)-1]
}
