package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/layertrace/layertrace/cmd/layertrace/internal/sessiontest"
	"github.com/layertrace/layertrace/resolver"
	"github.com/layertrace/layertrace/tracer"
	"github.com/layertrace/layertrace/tracer/event"
)

func unreachable(cause error) error {
	return fmt.Errorf("listing containers: %w: connecting: %w", resolver.ErrUnreachable, cause)
}

func TestWatchCannotStart(t *testing.T) {
	api := sessiontest.NewContainer(t, "api", nil)
	twin := api
	twin.ID, twin.Name = api.ID[:63]+"1", "twin"
	box := api
	box.ID, box.Name, box.Driver, box.LayerErr = sessiontest.ID("b0"), "box", "zfs", resolver.ErrNoUpperDir
	dir := box
	dir.ID, dir.Name, dir.Driver = sessiontest.ID("d0"), "dir", resolver.DriverRootfs

	const doctor = "hint: sudo layertrace doctor"
	tests := []struct {
		name   string
		args   []string
		set    func(*world)
		code   int
		stderr []string
	}{
		{
			name: "not root", args: []string{"api", "--path", "/a b"}, set: func(w *world) { w.env.euid = 1000 }, code: exitKernel,
			stderr: []string{"layertrace: watch: only root may look into the kernel", "hint: sudo layertrace watch api --path '/a b'"},
		},
		{
			name: "no such container", args: []string{"apj"}, code: exitRuntime,
			stderr: []string{"layertrace: container apj: no such container", "hint: did you mean api?"},
		},
		{
			name: "nothing like it", args: []string{"zzz"}, code: exitRuntime,
			stderr: []string{"layertrace: container zzz: no such container", "hint: layertrace watch --wait zzz waits for it; docker ps -a lists what there is"},
		},
		{
			name: "ambiguous", args: []string{api.ID[:6]}, code: exitRuntime,
			stderr: []string{"layertrace: container " + api.ID[:6] + ": several ids begin so: " + api.ID[:12] + ", " + twin.ID[:12], "hint: give more digits of the id, or the name"},
		},
		{
			name: "no socket", args: []string{"api"}, set: func(w *world) { w.containers.Err = unreachable(syscall.ENOENT) }, code: exitRuntime,
			stderr: []string{"layertrace: docker: cannot be reached: there is no socket /var/run/docker.sock", "hint: sudo systemctl start docker, or say where it listens: --docker-host unix:///path/to/docker.sock"},
		},
		{
			name: "no daemon", args: []string{"--all"}, code: exitRuntime,
			set: func(w *world) {
				w.containers.Err, w.vars["DOCKER_HOST"] = unreachable(syscall.ECONNREFUSED), "unix:///run/d.sock"
			},
			stderr: []string{"layertrace: docker: cannot be reached: no daemon listens at /run/d.sock", "hint: sudo systemctl start docker"},
		},
		{
			name: "no permission", args: []string{"api", "--docker-host", "unix:///x"}, set: func(w *world) { w.containers.Err = unreachable(syscall.EACCES) }, code: exitRuntime,
			stderr: []string{"layertrace: docker: cannot be reached: no permission to use /x", "hint: sudo layertrace watch api --docker-host unix:///x"},
		},
		{
			name: "no answer", args: []string{"api"}, set: func(w *world) { w.containers.Err = unreachable(context.DeadlineExceeded) }, code: exitRuntime,
			stderr: []string{"layertrace: docker: the daemon at /var/run/docker.sock does not answer", "hint: systemctl status docker"},
		},
		{
			name: "bad DOCKER_HOST", args: []string{"api"}, code: exitRuntime,
			set: func(w *world) {
				w.env.newRuntime = func(context.Context, runtimeChoice, zerolog.Logger) (containerRuntime, error) {
					return nil, errors.New("unable to parse docker host `x`")
				}
			},
			stderr: []string{"layertrace: docker: unable to parse docker host `x`", "hint: layertrace doctor"},
		},
		{
			name: "storage driver", args: []string{"box"}, code: exitFailed,
			stderr: []string{"layertrace: watch: the storage driver zfs of container box is not supported yet", "hint: docker info --format '{{.Driver}}' should say overlay2, overlayfs, fuse-overlayfs, vfs or btrfs"},
		},
		{
			name: "no layer", args: []string{"dir"}, code: exitFailed,
			stderr: []string{"layertrace: watch: container dir has no writable layer, it runs in a directory of the host", "hint: podman run --rootfs DIR:O puts a layer above it"},
		},
		{
			name: "in a container without the host's processes", args: []string{"api"}, code: exitKernel,
			set: func(w *world) { w.view = &resolver.ViewError{Missing: "--pid=host", Cause: "it is alone"} },
			stderr: []string{"layertrace: host: it cannot be seen without --pid=host: it is alone",
				"hint: docker run --rm -it --privileged --pid=host --cgroupns=host -v /var/run/docker.sock:/var/run/docker.sock layertrace watch api"},
		},
		{
			name: "no BTF", args: []string{"api"}, set: func(w *world) { w.kernelErrs = []error{tracer.ErrNoBTF} }, code: exitKernel,
			stderr: []string{"layertrace: kernel: it does not describe its own types (CONFIG_DEBUG_INFO_BTF)", doctor},
		},
		{
			name: "kernel refuses", args: []string{"api"}, code: exitKernel,
			set:    func(w *world) { w.kernelErrs = []error{fmt.Errorf("loading the programs: %w", tracer.ErrNotPermitted)} },
			stderr: []string{"layertrace: kernel: loading the programs: the kernel does not permit it", doctor},
		},
		{
			name: "kernel too old", args: []string{"api"}, code: exitKernel,
			set:    func(w *world) { w.kernelErrs = []error{fmt.Errorf("attaching: %w", tracer.ErrUnsupported)} },
			stderr: []string{"layertrace: kernel: attaching: the kernel does not support it", doctor},
		},
		{
			name: "no overlay module to be had", args: []string{"api"}, code: exitKernel,
			set:    func(w *world) { w.kernelErrs = []error{tracer.ErrNoOverlay, tracer.ErrNoOverlay} },
			stderr: []string{"layertrace: kernel: the overlay module is not loaded, and loading it did not work", "hint: sudo modprobe overlay"},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t, api, twin, box, dir)
			if test.set != nil {
				test.set(w)
			}
			w.expect(w.run(append([]string{"watch"}, test.args...)...), test.code, test.stderr...)
			if w.stdout.String() != "" {
				t.Errorf("stdout: %s", w.stdout)
			}
		})
	}
}

func TestOverlayModuleIsLoadedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, sessiontest.NewContainer(t, "api", nil))
		w.kernelErrs = []error{fmt.Errorf("looking: %w", tracer.ErrNoOverlay), nil}
		w.expect(w.run("watch", "api", "-d", "1s"), exitDone)
		if len(w.modules) != 1 || w.modules[0] != "overlay" {
			t.Errorf("modules loaded: %v", w.modules)
		}
	})
}

func TestWatchStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sessiontest.NewContainer(t, "api", map[string]int{"a": 10})
		w := newWorld(t, c)
		w.start("watch", "api", "-i", "1s")
		first := w.records()[0]
		if first["type"] != "session" || first["host"] != "host" || first["kernel"] != "6.1.0" ||
			first["interval_ms"] != 1000.0 || first["coverage"] != "full" ||
			fmt.Sprint(first["command"]) != "[layertrace watch api -i 1s]" || len(first["hooks"].([]any)) != 1 {
			t.Errorf("session record: %v", first)
		}
		sessiontest.Write(t, filepath.Join(c.UpperDir, "log"), 4096)
		w.kernel.Look(t, filepath.Join(c.UpperDir, "log"))
		time.Sleep(300 * time.Millisecond) // in the middle of the interval
		w.signal(syscall.SIGTERM)
		w.expect(w.exit(), exitDone)
		var grown float64
		for _, rec := range w.records() {
			if rec["type"] == "growth" {
				grown += rec["size_growth"].(float64)
			}
		}
		if last := w.last(); last["type"] != "summary" || last["ended"] != "signal" || last["duration_ms"] != 300.0 || grown != 4096 {
			t.Errorf("grown by %v, last record: %v", grown, last)
		}
		if !w.kernel.Closed() {
			t.Error("the kernel side was not closed")
		}
	})
}

func TestContainerGoesMidRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sessiontest.NewContainer(t, "api", map[string]int{"a": 10})
		w := newWorld(t, c)
		w.start("watch", "api")
		w.containers.Send(resolver.Stopped, c)
		w.containers.Send(resolver.Removed, c)
		w.expect(w.exit(), exitDone)
		if last := w.last(); last["ended"] != "containers_gone" {
			t.Errorf("last record: %v", last)
		}
	})
}

func TestWaitForAContainer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start("watch", "--wait", "api")
		c := sessiontest.NewContainer(t, "api", map[string]int{"a": 10})
		w.containers.Send(resolver.Found, c)
		w.containers.Send(resolver.Removed, c)
		time.Sleep(time.Minute)
		w.signal(syscall.SIGINT)
		w.expect(w.exit(), exitDone)
		if last := w.last(); last["ended"] != "signal" || len(last["containers"].([]any)) != 1 {
			t.Errorf("last record: %v", last)
		}
	})
}

func TestWaitForTheRuntime(t *testing.T) {
	for _, args := range [][]string{{"--all"}, {"api"}} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, sessiontest.NewContainer(t, "api", nil))
			w.containers.Err = unreachable(syscall.ECONNREFUSED)
			w.start(append([]string{"watch", "--wait"}, args...)...)
			time.Sleep(time.Minute)
			synctest.Wait()
			if len(w.records()) != 0 || strings.Count(w.stderr.String(), "\n") != 1 {
				t.Errorf("records %v, stderr:\n%s", w.records(), w.stderr.String())
			}
			w.containers.Fail(nil)
			time.Sleep(3 * time.Second)
			synctest.Wait()
			if all := w.records(); len(all) < 2 || all[1]["event"] != "found" {
				t.Errorf("once the runtime is there: %v", all)
			}
			w.signal(syscall.SIGINT)
			if code, log := w.exit(), w.stderr.String(); code != exitDone || strings.Count(log, "\n") != 2 {
				t.Errorf("exit code %d, stderr:\n%s", code, log)
			}
		})
	}
	t.Run("stopped", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.containers.Err = unreachable(syscall.ENOENT)
			w.start("watch", "--wait", "api")
			w.signal(syscall.SIGINT)
			if code := w.exit(); code != exitDone || !w.kernel.Closed() {
				t.Errorf("exit code %d, the kernel side is closed: %v", code, w.kernel.Closed())
			}
		})
	})
	t.Run("not allowed", func(t *testing.T) {
		w := newWorld(t)
		w.containers.Err = unreachable(syscall.EACCES)
		if code := w.run("watch", "--wait", "api"); code != exitRuntime {
			t.Errorf("exit code %d", code)
		}
	})
}

func TestSelectionFollowsNamesButNotPrefixes(t *testing.T) {
	api := sessiontest.NewContainer(t, "api", nil)
	w := newWorld(t, api)
	run := &watch{env: w.env, runtime: w.containers}
	run.flags.wait = true
	sel, err := run.find(t.Context(), []string{"api", api.ID[:8], "later"})
	if want := []string{"api", api.ID, "later"}; err != nil || fmt.Sprint(sel.Refs) != fmt.Sprint(want) {
		t.Errorf("selection: %v, %v", sel.Refs, err)
	}
}

func TestLimitExitCode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sessiontest.NewContainer(t, "api", nil)
		w := newWorld(t, c)
		w.start("watch", "api", "--limit-growth", "1KiB")
		sessiontest.Write(t, filepath.Join(c.UpperDir, "log"), 2048)
		w.kernel.Look(t, filepath.Join(c.UpperDir, "log"))
		w.expect(w.exit(), exitLimit, "layertrace: limit exceeded: the layer of api grew by 2.0 KiB, more than 1.0 KiB")
		if last := w.last(); last["type"] != "summary" || last["ended"] != "limit" {
			t.Errorf("last record: %v", last)
		}
	})
}

func TestKernelFailsMidRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, sessiontest.NewContainer(t, "api", nil))
		w.start("watch", "api")
		w.kernel.Fail(errors.New("map\nis gone"))
		w.expect(w.exit(), exitFailed, "layertrace: watch: reading the kernel's counters: map; is gone")
		if last := w.last(); last["ended"] != "error" {
			t.Errorf("last record: %v", last)
		}
	})
}

func TestHangup(t *testing.T) {
	t.Run("ndjson goes on", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, sessiontest.NewContainer(t, "api", nil))
			w.start("watch", "api")
			w.signal(syscall.SIGHUP)
			w.signal(syscall.SIGHUP)
			time.Sleep(time.Second)
			w.signal(syscall.SIGINT)
			w.expect(w.exit(), exitDone)
		})
	})
	t.Run("a table ends", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, sessiontest.NewContainer(t, "api", nil))
			w.start("watch", "api", "-o", "table")
			w.signal(syscall.SIGHUP)
			w.expect(w.exit(), exitDone)
		})
	})
	t.Run("nohup", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, sessiontest.NewContainer(t, "api", nil))
			w.ignored = syscall.SIGHUP
			w.start("watch", "api", "-o", "table", "-d", "1s")
			for _, sig := range w.wanted {
				if sig == syscall.SIGHUP {
					t.Error("SIGHUP is not ignored any more")
				}
			}
			w.expect(w.exit(), exitDone)
		})
	})
}

func TestSignalWhileStarting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.env.newRuntime = func(context.Context, runtimeChoice, zerolog.Logger) (containerRuntime, error) {
			return slowRuntime{w.containers}, nil
		}
		w.start("watch", "api")
		time.Sleep(slowAnswer)
		synctest.Wait()
		if !strings.Contains(w.stderr.String(), "takes long") {
			t.Errorf("stderr:\n%s", w.stderr.String())
		}
		w.signal(syscall.SIGINT)
		if code := w.exit(); code != exitDone || strings.Count(w.stderr.String(), "\n") != 1 {
			t.Errorf("exit code %d, stderr:\n%s", code, w.stderr.String())
		}
	})
}

// slowRuntime answers when the question is withdrawn.
type slowRuntime struct{ *sessiontest.Containers }

func (slowRuntime) Find(ctx context.Context, _ string) (resolver.Container, error) {
	<-ctx.Done()
	return resolver.Container{}, fmt.Errorf("asking: %w", ctx.Err())
}

// stuck is an output whose reader has stopped to read.
type stuck struct{ release chan struct{} }

func (s stuck) Write(p []byte) (int, error) {
	<-s.release
	return len(p), nil
}

func TestSecondSignalAborts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, sessiontest.NewContainer(t, "api", nil))
		out := stuck{make(chan struct{})}
		w.env.stdout = out
		w.start("watch", "api")
		w.signal(syscall.SIGINT)
		time.Sleep(sameSignal)
		w.signal(syscall.SIGTERM)
		start := time.Now()
		w.expect(w.exit(), exitFailed, "layertrace: watch: interrupted: a second signal came before the run had ended")
		if took := time.Since(start); took > abortGrace {
			t.Errorf("took %v", took)
		}
		close(out.release) // the process would have ended
	})
}

// Who sends a signal to a process and to its group means one.
func TestSignalOfTheGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, sessiontest.NewContainer(t, "api", nil))
		w.start("watch", "api")
		w.signal(syscall.SIGTERM)
		w.signal(syscall.SIGTERM)
		w.expect(w.exit(), exitDone)
		if last := w.last(); last["ended"] != "signal" {
			t.Errorf("last record: %v", last)
		}
	})
}

func TestNothingToWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.expect(w.run("watch", "--all", "-d", "1s"), exitDone)
		all := w.records()
		if len(all) != 2 || all[0]["type"] != "session" || fmt.Sprint(all[1]["containers"], all[1]["losses"]) != "[] []" {
			t.Errorf("records: %v", all)
		}
	})
}

func TestCommandOfRawBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.expect(w.run("watch", "--all", "-d", "1s", "--path", "/\xff"), exitDone)
		first := w.records()[0]
		command, b64 := first["command"].([]any), first["command_b64"].([]any)
		if last := len(command) - 1; len(b64) != len(command) || command[last] != "/\uFFFD" || b64[last] != "L/8=" || b64[0] != "bGF5ZXJ0cmFjZQ==" {
			t.Errorf("command %v, %v", command, b64)
		}
	})
}

func TestBrokenOutput(t *testing.T) {
	tests := []struct {
		err    error
		code   int
		stderr []string
	}{
		{err: syscall.EPIPE, code: exitDone},
		{err: syscall.ENOSPC, code: exitFailed, stderr: []string{
			"layertrace: watch: the output cannot be written: no space left where it goes", "hint: df -h",
		}},
		{err: syscall.EIO, code: exitFailed, stderr: []string{"layertrace: watch: writing records: input/output error"}},
	}
	for _, test := range tests {
		t.Run(test.err.Error(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, sessiontest.NewContainer(t, "api", nil))
				w.stdout.err = test.err
				w.expect(w.run("watch", "api"), test.code, test.stderr...)
			})
		})
	}
}

func TestLiveEndsWithTheSummary(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, sessiontest.NewContainer(t, "api", nil))
		w.env.terminal = func(io.Writer) (int, int, bool) { return 80, 25, true }
		w.expect(w.run("watch", "api", "-d", "2s"), exitDone)
		screens, rest, ok := strings.Cut(w.stdout.String(), "the duration is over")
		if !ok || !strings.Contains(screens, "\x1b[") || strings.Contains(rest, "\x1b[H") || strings.Contains(rest, "api found") {
			t.Errorf("after the summary: %q", rest)
		}
	})
}

func TestDumbTerminalGetsATable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, sessiontest.NewContainer(t, "api", nil))
		w.env.terminal = func(io.Writer) (int, int, bool) { return 80, 25, true }
		w.vars["TERM"] = "dumb"
		w.expect(w.run("watch", "api", "-d", "2s"), exitDone)
		if out := w.stdout.String(); strings.Contains(out, "\x1b") || !strings.Contains(out, "the duration is over") {
			t.Errorf("stdout: %q", out)
		}
	})
}

func TestFullDisk(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip("this system has no /dev/full")
	}
	defer full.Close()
	w := newWorld(t, sessiontest.NewContainer(t, "api", nil))
	w.env.stdout = full
	w.expect(w.run("watch", "api"), exitFailed,
		"layertrace: watch: the output cannot be written: no space left where it goes", "hint: df -h")
}

// piped makes the output a pipe, of which it returns the reader's end.
func (w *world) piped() *os.File {
	w.Helper()
	r, out, err := os.Pipe()
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { _ = out.Close() })
	w.env.stdout = out
	return r
}

// endsSoon waits, in real time, for the end without an error.
func (w *world) endsSoon() {
	w.Helper()
	select {
	case code := <-w.code:
		w.expect(code, exitDone)
	case <-time.After(30 * time.Second):
		w.Fatal("it does not end")
	}
}

func TestReaderOfTheOutputGoes(t *testing.T) {
	for _, busy := range []bool{false, true} {
		t.Run(fmt.Sprintf("busy=%v", busy), func(t *testing.T) {
			c := sessiontest.NewContainer(t, "api", nil)
			w := newWorld(t, c)
			r := w.piped()
			go func() { w.code <- w.run("watch", "api", "-i", "10ms") }()
			line := make([]byte, 1<<16)
			if n, err := r.Read(line); err != nil || !strings.HasPrefix(string(line[:n]), `{"type":"session"`) {
				t.Fatalf("first read: %q, %v", line[:n], err)
			}
			if busy {
				w.kernel.Lose(event.Loss{Reason: event.LossRingFull, Events: 1})
			}
			r.Close()
			w.endsSoon()
		})
	}
}

// While the runtime is waited for nothing is written that would show it.
func TestReaderGoesWhileWaiting(t *testing.T) {
	w := newWorld(t)
	w.containers.Err = unreachable(syscall.ECONNREFUSED)
	r := w.piped()
	go func() { w.code <- w.run("watch", "--wait", "api", "--log-level", "error") }()
	r.Close()
	w.endsSoon()
}

func TestContainerNamesAreCompleted(t *testing.T) {
	api, db := sessiontest.NewContainer(t, "api", nil), sessiontest.NewContainer(t, "db", nil)
	tests := []struct {
		args []string
		err  error
		want string
	}{
		{args: []string{"watch", ""}, want: "api\trunning\ndb\trunning\n:4\n"},
		{args: []string{"watch", "api", ""}, want: "db\trunning\n:4\n"},
		{args: []string{"watch", ""}, err: errors.New("no socket"), want: ":4\n"},
		{args: []string{"watch", "--output", "n"}, want: "auto\nlive\ntable\nndjson\n:4\n"},
	}
	for _, test := range tests {
		w := newWorld(t, api, db)
		w.containers.Err = test.err
		if code := w.run(append([]string{"__complete"}, test.args...)...); code != exitDone || w.stdout.String() != test.want {
			t.Errorf("%q: exit code %d, got %q, want %q", test.args, code, w.stdout, test.want)
		}
	}
}

// A ledger that is too small for one of the containers.
func TestNoRoom(t *testing.T) {
	big := sessiontest.NewContainer(t, "big", map[string]int{"a": 1, "b": 2, "c": 3})
	t.Run("for the only one", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, big)
			w.kernel.MaxFiles = 3
			w.expect(w.run("watch", "--max-files=2000", "big"), exitFailed,
				"layertrace: watch: taking the baseline of big: the table of files is full",
				"hint: sudo layertrace watch --max-files 8000 big")
			if w.cfg.MaxFiles != 2000 {
				t.Errorf("the kernel side was given room for %d files", w.cfg.MaxFiles)
			}
		})
	})
	t.Run("for one of all", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, big, sessiontest.NewContainer(t, "api", nil))
			w.kernel.MaxFiles = 3
			w.start("watch", "--all", "--log-format", "json")
			w.signal(syscall.SIGINT)
			code := w.exit()
			warning := w.stderr.String()
			if code != exitDone || strings.Count(warning, "\n") != 1 || !strings.Contains(warning, `"container":"big"`) ||
				!strings.Contains(warning, `"hint":"sudo layertrace watch --max-files 4194304 --all --log-format json"`) {
				t.Errorf("exit code %d, stderr:\n%s", code, warning)
			}
			if w.cfg.MaxFiles != 1<<20 {
				t.Errorf("the kernel side was given room for %d files", w.cfg.MaxFiles)
			}
		})
	})
	t.Run("no more to be had", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, big)
			w.kernel.MaxFiles = 3
			w.expect(w.run("watch", "big", "--max-files", "134217728"), exitFailed,
				"layertrace: watch: taking the baseline of big: the table of files is full",
				"hint: watch fewer containers at a time")
		})
	})
}
