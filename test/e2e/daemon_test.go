//go:build linux

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/internal/record"
)

// daemon is a Docker daemon of the test's own, which it may stop, kill and start
// again.
type daemon struct {
	t    *testing.T
	args []string
	host string // its address
	api  *dockerAPI
	cmd  *exec.Cmd
	log  bytes.Buffer // what it said; to be read only while it is stopped
}

// daemonLimit is how long a daemon may take to start, or to stop.
const daemonLimit = 2 * time.Minute

// newDaemon prepares a daemon, and makes the image known to it as soon as it is
// started for the first time.
func newDaemon(t *testing.T, flags ...string) *daemon {
	t.Helper()
	// Its layers must not lie in memory, nor in the layer of anything.
	base := "/scratch"
	if _, err := os.Stat(base); err != nil {
		base = env.dir
	}
	data, err := os.MkdirTemp(base, "dockerd-")
	if err != nil {
		t.Fatal(err)
	}
	// Paths of sockets are short.
	run, err := os.MkdirTemp(env.dir, "d-")
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(run, "docker.sock")
	config := filepath.Join(run, "daemon.json")
	if err := os.WriteFile(config, []byte("{}"), 0o644); err != nil {
		t.Fatal(err)
	}
	d := &daemon{t: t, host: "unix://" + socket, api: dockerAt(socket)}
	d.args = append([]string{
		"--config-file", config, "--host", d.host, "--data-root", data, "--exec-root", filepath.Join(run, "x"),
		"--pidfile", filepath.Join(run, "pid"), "--storage-driver", "overlay2",
		"--bridge", "none", "--iptables=false", "--ip6tables=false",
	}, flags...)
	t.Cleanup(func() {
		if d.cmd != nil {
			d.stop()
		}
		if t.Failed() {
			t.Logf("the daemon said last:\n%s", tail(d.log.String(), 20))
		}
		unmountBelow(t, data)
		if err := os.RemoveAll(data); err != nil {
			t.Errorf("removing the daemon's data: %v", err)
		}
	})
	return d
}

// unmountBelow unmounts what a daemon that was killed left behind.
func unmountBelow(t *testing.T, dir string) {
	t.Helper()
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range slices.Backward(strings.Split(string(table), "\n")) {
		if f := strings.Fields(line); len(f) > 4 && (f[4] == dir || strings.HasPrefix(f[4], dir+"/")) {
			if err := unix.Unmount(f[4], unix.MNT_DETACH); err != nil {
				t.Errorf("unmounting %s: %v", f[4], err)
			}
		}
	}
}

// start starts the daemon and waits until it answers.
func (d *daemon) start() {
	d.t.Helper()
	d.cmd = exec.Command("dockerd", d.args...)
	d.cmd.Stdout, d.cmd.Stderr = &d.log, &d.log
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	program, err := exec.LookPath("dockerd")
	if err != nil {
		d.t.Fatal(err)
	}
	// One that was unpacked somewhere has its libraries beside it.
	if libraries := filepath.Join(filepath.Dir(filepath.Dir(program)), "lib"); filepath.Dir(program) != "/usr/bin" {
		d.cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+libraries)
	}
	began := time.Now()
	if err := d.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	eventually(d.t, daemonLimit, "the daemon answers", func() error { return d.api.do("GET", "/_ping", nil, nil) })
	d.t.Logf("a daemon answers after %.1f s", time.Since(began).Seconds())
}

// image makes the tests' programs an image of the daemon's.
func (d *daemon) image() {
	d.t.Helper()
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		d.t.Fatal(err)
	}
	err = importTar(d.api, imageName, func(w *imageWriter) {
		w.dirs("bin", "etc", "proc", "sys", "dev", "tmp", "var", "data", "run", "ctl", "w", "img")
		w.program("bin/busybox", busybox)
		w.program("bin/workload", env.workload)
		for _, a := range []string{"sh", "chmod"} {
			w.symlink("bin/"+a, "busybox")
		}
		w.file("img/chmod", 0o644, filler(imageFiles["chmod"]))
	})
	if err != nil {
		d.t.Fatal(err)
	}
}

// kill ends the daemon without a chance to do anything.
func (d *daemon) kill() { d.t.Helper(); d.end(syscall.SIGKILL) }

// stop ends the daemon in order.
func (d *daemon) stop() { d.t.Helper(); d.end(syscall.SIGTERM) }

func (d *daemon) end(sig syscall.Signal) {
	d.t.Helper()
	cmd := d.cmd
	d.cmd = nil
	if err := cmd.Process.Signal(sig); err != nil {
		d.t.Fatal(err)
	}
	late := time.AfterFunc(daemonLimit, func() { _ = cmd.Process.Kill() })
	defer late.Stop()
	if err := cmd.Wait(); err != nil && sig != syscall.SIGKILL {
		d.t.Errorf("stopping the daemon: %v", err)
	}
}

// says waits until layertrace has logged something, and requires that it did so
// only once.
func (s *session) says(text string) {
	s.t.Helper()
	eventually(s.t, seenLimit, "layertrace says "+text, func() error {
		switch n := strings.Count(s.errors(), text); n {
		case 0:
			return errors.New("it does not")
		case 1:
			return nil
		default:
			s.t.Fatalf("%d times %q:\n%s", n, text, s.errors())
			return nil
		}
	})
}

const (
	isAway = "container runtime unreachable, trying again"
	isBack = "container runtime is back"
)

// TestDaemonRestart: the daemon is not there when layertrace starts, is killed while
// containers run, and comes back. What happens meanwhile is counted all the same. The
// long mode has a daemon that ends its containers then as well.
func TestDaemonRestart(t *testing.T) {
	for _, live := range []bool{true, false} {
		name, flags := "live restore", []string{"--live-restore"}
		if !live {
			if shortContainers(t) < manyContainers {
				continue
			}
			name, flags = "plain", nil
		}
		t.Run(name, func(t *testing.T) { daemonRestart(t, live, newDaemon(t, flags...)) })
	}
}

func daemonRestart(t *testing.T, live bool, d *daemon) {
	message, hint := refused(t, 3, nil, "watch", "--all", "--docker-host", d.host)
	mentions(t, message, strings.TrimPrefix(d.host, "unix://"))
	mentions(t, hint, "start docker")

	s := launch(t, "--interval", "200ms", "--wait", "--all", "--docker-host", d.host)
	s.says("container runtime unreachable, waiting for it")
	d.start()
	d.image()
	s.ready()
	s.says("container runtime is there")

	stays := newBoxWith(t, boxOptions{docker: d.api, boot: fields("append path=/var/boot.log size=777")})
	ends := newBoxWith(t, boxOptions{docker: d.api})
	stays.run(t, "before", fields("write path=/w/before size=1000")...)
	s.until(seenLimit, "a write before", func(v *view) error { return grown(v, stays, "before", 1000) })
	s.until(seenLimit, "both containers are started", func(v *view) error {
		_, err := v.event(stays, record.ContainerStarted)
		_, err2 := v.event(ends, record.ContainerStarted)
		return errors.Join(err, err2)
	})

	d.kill()
	s.says(isAway)
	_, cpu := usage(t, s.cmd.Process.Pid)
	began := time.Now()
	stays.run(t, "meanwhile", fields("append path=/w/meanwhile size=2000 chunk=100 then append path=/w/before size=1")...)
	ends.run(t, "last", fields("write path=/w/last size=3000")...)
	s.until(seenLimit, "writes while the daemon is away", func(v *view) error {
		return errors.Join(grown(v, stays, "meanwhile", 2001), grown(v, ends, "last", 3000))
	})
	// Nobody is there to tell of this.
	if err := unix.Kill(ends.pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	// It tries to reach the daemon all the time, but not as fast as it can.
	time.Sleep(max(0, 3*time.Second-time.Since(began)))
	_, then := usage(t, s.cmd.Process.Pid)
	if used, took := then-cpu, time.Since(began); used > took/2 {
		t.Errorf("while the daemon was away layertrace used %v of processor time in %v", used, took)
	}

	d.start()
	s.says(isBack)
	s.until(seenLimit, "the container that ended meanwhile", func(v *view) error {
		_, err := v.event(ends, record.ContainerStopped)
		return err
	})
	boots := int64(1)
	if !live {
		// The daemon ends what is left of its former life.
		s.until(seenLimit, "the container that the daemon stops", func(v *view) error {
			_, err := v.event(stays, record.ContainerStopped)
			return err
		})
		stays.start(t)
		boots++
	}
	stays.run(t, "after", fields("write path=/w/after size=4000")...)
	s.until(seenLimit, "writes after it came back", func(v *view) error {
		return errors.Join(grown(v, stays, "after", 4000), grown(v, stays, "workload", 777*boots))
	})
	short, err := runShort(d.api, 3)
	if err != nil {
		t.Fatal(err)
	}
	s.until(seenLimit, "a container that comes and goes", func(v *view) error {
		_, err := v.event(&short.box, record.ContainerRemoved)
		return err
	})

	s.quiet(stays, ends)
	short.check(t, &s.view)
	want := []string{record.ContainerFound, record.ContainerStarted}
	if !live {
		want = append(want, record.ContainerStopped, record.ContainerStarted)
	}
	if got := s.eventsOf(stays); !slices.Equal(got, want) {
		t.Errorf("container events were %v, want %v", got, want)
	}
	if got := s.eventsOf(ends); !slices.Equal(got, []string{record.ContainerFound, record.ContainerStarted, record.ContainerStopped}) {
		t.Errorf("events of the container that ended meanwhile were %v", got)
	}
	if n := strings.Count(s.errors(), "\n"); n != 4 {
		t.Errorf("%d lines were logged, want two of the start and one each way:\n%s", n, s.errors())
	}
}

// TestDaemonTrouble: a daemon that is slow, talks nonsense or hangs up keeps nothing
// from being counted.
func TestDaemonTrouble(t *testing.T) {
	delay := 5 * time.Second
	if shortContainers(t) >= manyContainers {
		delay = 30 * time.Second
	}
	const hangsUp = "hangs-up"
	p := newProxy(t)
	b := newBox(t)
	b.before = walkLayer(t, b.upper)
	s := watch(t, "--all", "--log-level", "debug", "--docker-host", p.host)
	var all []shortLived
	for i, trouble := range []struct {
		name string
		mode proxyMode
	}{
		{"slow", proxyMode{delay: delay}},
		{"garbage", proxyMode{garbage: true}},
		{"cut", proxyMode{cut: true}},
		{hangsUp, proxyMode{cut: true}},
	} {
		p.set(trouble.mode)
		if trouble.name == hangsUp {
			p.hangUp()
		}
		b.run(t, trouble.name, fields(fmt.Sprintf("append path=/w/%s size=%d chunk=100", trouble.name, 1000+i))...)
		s.until(seenLimit, "a write", func(v *view) error { return grown(v, b, trouble.name, int64(1000+i)) })
		if trouble.name == hangsUp {
			// What is created before it is back may have begun to write by then.
			s.says(isAway)
			p.set(proxyMode{})
			s.says(isBack)
		}
		short, err := runShort(env.docker, i)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, short)
		s.until(seenLimit+3*delay, "a container that comes and goes, "+trouble.name, func(v *view) error {
			_, err := v.event(&short.box, record.ContainerRemoved)
			return err
		})
		p.set(proxyMode{})
	}
	s.quiet(b)
	for i := range all {
		all[i].check(t, &s.view)
	}
	if !strings.Contains(s.errors(), "no usable answer") {
		t.Errorf("nothing was logged of answers that make no sense:\n%s", s.errors())
	}
	if got := s.eventsOf(b); !slices.Equal(got, []string{record.ContainerFound}) {
		t.Errorf("container events were %v", got)
	}
}
