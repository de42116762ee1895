//go:build linux

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/layertrace/layertrace/internal/record"
)

// refused runs layertrace, which must end by itself with this exit code, nothing
// on standard output, and an error that a person can read: one line, and at most
// a hint.
func refused(t *testing.T, code int, prepare func(*exec.Cmd), args ...string) (message, hint string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), exitLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, env.bin, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if prepare != nil {
		prepare(cmd)
	}
	err := cmd.Run()
	said := fmt.Sprintf("layertrace %q: %v\nstandard output: %q\nstandard error:\n%s", args, err, stdout.Bytes(), stderr.Bytes())
	if ctx.Err() != nil {
		t.Fatalf("still running after %s: %s", exitLimit, said)
	}
	if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != code {
		t.Fatalf("want exit code %d: %s", code, said)
	}
	if stdout.Len() != 0 {
		t.Errorf("an error belongs on standard error: %s", said)
	}
	lines := strings.Split(strings.TrimSuffix(stderr.String(), "\n"), "\n")
	message = lines[0]
	if !strings.HasPrefix(message, "layertrace: ") || strings.Count(message, ": ") < 2 {
		t.Errorf("the first line is not \"layertrace: what: cause\": %s", said)
	}
	switch {
	case len(lines) == 2 && strings.HasPrefix(lines[1], "hint: "):
		hint = lines[1]
	case len(lines) > 1:
		t.Errorf("more than one line and a hint: %s", said)
	}
	for _, ugly := range []string{"goroutine", "panic", "errno", "0x", "%!"} {
		if strings.Contains(stderr.String(), ugly) {
			t.Errorf("the message holds %q: %s", ugly, said)
		}
	}
	return message, hint
}

func mentions(t *testing.T, text string, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(strings.ToLower(text), strings.ToLower(w)) {
			t.Errorf("%q does not mention %q", text, w)
		}
	}
}

func TestErrors(t *testing.T) {
	b := newBox(t)

	t.Run("wrong name", func(t *testing.T) {
		message, hint := refused(t, 3, nil, "watch", b.name+"x")
		mentions(t, message, b.name+"x")
		// The nearest name is offered as it would be typed.
		mentions(t, message+hint, b.name)
		if !strings.Contains(strings.ReplaceAll(message+" "+hint, b.name+"x", ""), b.name) {
			t.Errorf("the nearest name is not suggested: %q, %q", message, hint)
		}
	})
	t.Run("ambiguous prefix", func(t *testing.T) {
		prefix, ids := ambiguous(t, b)
		message, hint := refused(t, 3, nil, "watch", prefix)
		mentions(t, message+hint, prefix, ids[0][:12], ids[1][:12])
	})
	t.Run("no docker", func(t *testing.T) {
		message, hint := refused(t, 3, nil, "watch", "--docker-host", "unix:///nonexistent/docker.sock", b.name)
		mentions(t, message, "/nonexistent/docker.sock")
		if hint == "" {
			t.Errorf("no hint: %q", message)
		}
	})
	t.Run("not root", func(t *testing.T) {
		// A checkout may lie where nobody else may look.
		binary, err := os.ReadFile(env.bin)
		if err != nil {
			t.Fatal(err)
		}
		public := filepath.Join(env.dir, "layertrace")
		if err := os.WriteFile(public, binary, 0o755); err != nil {
			t.Fatal(err)
		}
		message, hint := refused(t, 4, func(cmd *exec.Cmd) {
			cmd.Path = public
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		}, "watch", b.name)
		mentions(t, message+hint, "sudo")
	})
	for _, c := range []struct {
		name, word string
		args       []string
	}{
		{"no container", "container", []string{"watch"}},
		{"unknown flag", "--no-such-flag", []string{"watch", "--no-such-flag", b.name}},
		{"unknown command", "wacth", []string{"wacth", b.name}},
		{"interval zero", "interval", []string{"watch", "-i", "0", b.name}},
		{"interval negative", "interval", []string{"watch", "-i", "-1s", b.name}},
		{"interval no duration", "interval", []string{"watch", "-i", "often", b.name}},
		{"duration negative", "duration", []string{"watch", "-d", "-1s", b.name}},
		{"output", "output", []string{"watch", "-o", "xml", b.name}},
		{"limit", "limit-growth", []string{"watch", "--limit-growth", "many", b.name}},
		{"rate", "limit-rate", []string{"watch", "--limit-rate", "10MiB/parsec", b.name}},
		{"glob", "path", []string{"watch", "--path", "[", b.name}},
		{"group", "group", []string{"watch", "--group", "planet", b.name}},
		{"all and a name", "all", []string{"watch", "--all", b.name}},
		{"log level", "log-level", []string{"watch", "--log-level", "loud", b.name}},
	} {
		t.Run("usage/"+c.name, func(t *testing.T) {
			message, hint := refused(t, 2, nil, c.args...)
			mentions(t, message+" "+hint, c.word)
		})
	}
	t.Run("output closed", func(t *testing.T) { outputClosed(t, b) })
	t.Run("interrupted", func(t *testing.T) { interrupted(t, b, os.Interrupt) })
	t.Run("terminated", func(t *testing.T) { interrupted(t, b, syscall.SIGTERM) })
	t.Run("limit growth", func(t *testing.T) {
		s := watch(t, "--limit-growth", "1MiB", b.name)
		b.run(t, "under", fields("write path=/w/under size=1000000")...)
		s.until(seenLimit, "growth below the limit", func(v *view) error { return grown(v, b, "under", 1_000_000) })
		b.run(t, "over", fields("write path=/w/over size=100000")...)
		s.exited(5)
		s.endedBy(record.EndedLimit)
		if err := grown(&s.view, b, "over", 100_000); err != nil {
			t.Errorf("what exceeded the limit is not in the stream: %v", err)
		}
		checkInvariants(t, s, b)
	})
	t.Run("limit rate", func(t *testing.T) {
		s := watch(t, "--limit-rate", "4MiB/s", b.name)
		b.run(t, "burst", fields("write path=/w/burst size=16777216")...)
		s.exited(5)
		s.endedBy(record.EndedLimit)
	})
	t.Run("duration", func(t *testing.T) {
		s := watch(t, "--duration", "2s", b.name)
		b.run(t, "within", fields("write path=/w/within size=1234")...)
		s.exited(0)
		s.endedBy(record.EndedDuration)
		if s.summary.DurationMS < 2000 || s.summary.DurationMS > 20_000 {
			t.Errorf("duration_ms is %d, want 2000 and little more", s.summary.DurationMS)
		}
		if err := grown(&s.view, b, "within", 1234); err != nil {
			t.Error(err)
		}
		checkInvariants(t, s, b)
	})
}

// ambiguous makes containers until two ids begin with the same digit.
func ambiguous(t *testing.T, b *box) (prefix string, ids []string) {
	t.Helper()
	known := map[string]string{b.id[:1]: b.id}
	for range 17 {
		var created struct {
			ID string `json:"Id"`
		}
		env.docker.must(t, "POST", "/containers/create", map[string]any{"Image": imageName, "Cmd": []string{"/bin/workload"}}, &created)
		t.Cleanup(func() { _ = env.docker.do("DELETE", "/containers/"+created.ID+"?force=1", nil, nil) })
		if other := known[created.ID[:1]]; other != "" {
			return created.ID[:1], []string{other, created.ID}
		}
		known[created.ID[:1]] = created.ID
	}
	t.Fatal("17 ids with 17 different first digits")
	return "", nil
}

// outputClosed: a reader that goes away, as head does, ends the run without a
// word and without an error.
func outputClosed(t *testing.T, b *box) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var stderr bytes.Buffer
	cmd := exec.Command(env.bin, "watch", "-o", "ndjson", "-i", "200ms", b.name)
	cmd.Stdout, cmd.Stderr = w, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	defer func() { _ = cmd.Process.Kill() }()
	if err := r.SetReadDeadline(time.Now().Add(startLimit)); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(r).ReadString('\n')
	if err != nil || !strings.Contains(line, `"type":"session"`) {
		t.Fatalf("the first line is %q: %v\n%s", line, err, stderr.Bytes())
	}
	r.Close()
	deadline := time.Now().Add(exitLimit)
	for {
		// Something to report, should it need that to notice.
		b.run(t, "closer", fields("append path=/w/closer size=100")...)
		select {
		case err := <-ended:
			if err != nil || stderr.Len() != 0 {
				t.Errorf("want exit code 0 and silence, got %v and on standard error:\n%s", err, stderr.Bytes())
			}
			return
		case <-time.After(300 * time.Millisecond):
			if time.Now().After(deadline) {
				t.Fatalf("still running %s after its output was closed", exitLimit)
			}
		}
	}
}

// interrupted: a signal in the middle of an interval loses nothing.
func interrupted(t *testing.T, b *box, sig os.Signal) {
	s := launch(t, "--interval", "1h", b.name)
	s.ready()
	name := "int-" + sig.String()[:5]
	b.run(t, name, fields("write path=/w/"+name+" size=43210")...)
	if s.refresh(); s.by(b, name).records != 0 {
		t.Fatalf("a record before the interval was over:\n%s", s.dump())
	}
	settle(t, b.upper)
	// A log pipeline outlives the terminal that it was started from.
	for _, each := range []os.Signal{syscall.SIGHUP, sig} {
		if err := s.cmd.Process.Signal(each); err != nil {
			t.Fatal(err)
		}
	}
	s.exited(0)
	s.endedBy(record.EndedSignal)
	if err := grown(&s.view, b, name, 43_210); err != nil {
		t.Errorf("the last interval was not flushed: %v", err)
	}
	checkInvariants(t, s, b)
}

// TestSlowReader: a reader that is slow loses nothing and sees no broken line.
func TestSlowReader(t *testing.T) {
	b := newBox(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var stderr bytes.Buffer
	cmd := exec.Command(env.bin, "watch", "-o", "ndjson", "-i", "100ms", b.name)
	cmd.Stdout, cmd.Stderr = w, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	s := &session{t: t, cmd: cmd, args: cmd.Args, ended: make(chan struct{})}
	if err := r.SetReadDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReaderSize(r, 16)
	next := func() error {
		line, err := in.ReadBytes('\n')
		if len(line) > 0 {
			if err := s.take(line); err != nil {
				t.Fatalf("record %d: %v\n%s", len(s.lines), err, line)
			}
		}
		return err
	}
	if err := next(); err != nil {
		t.Fatalf("reading the session record: %v\n%s", err, stderr.Bytes())
	}
	// More than a pipe holds, and nobody reads.
	const files = 600
	b.run(t, "many", fields("mkdir path=/w/many then "+strings.TrimSuffix(repeated(files, "write path=/w/many/%d size=100 then "), "then "))...)
	settle(t, b.upper)
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	for {
		if err := next(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("reading record %d: %v\n%s", len(s.lines), err, stderr.Bytes())
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("layertrace: %v\n%s", err, stderr.Bytes())
	}
	if err := grown(&s.view, b, "many", files*100); err != nil {
		t.Error(err)
	}
	checkInvariants(t, s, b)
}
