//go:build linux

package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/layertrace/layertrace/internal/output/outputtest"
	"github.com/layertrace/layertrace/internal/record"
)

const (
	startLimit = 2 * time.Minute // from exec to the session record
	seenLimit  = time.Minute     // from a write to its record
	exitLimit  = 2 * time.Minute // from a signal to the exit
)

// session is a run of layertrace watch -o ndjson.
type session struct {
	t    *testing.T
	args []string
	cmd  *exec.Cmd

	mu     sync.Mutex
	raw    [][]byte // lines not yet parsed
	stderr bytes.Buffer
	more   chan struct{}
	ended  chan struct{} // closed when the process has been waited for
	code   int
	wait   error

	lines    []string // every line so far
	lastTime time.Time
	view
}

// view is what the records so far say.
type view struct {
	session *record.Session
	growth  []growth
	layers  []record.Layer
	events  []record.ContainerEvent
	losses  []record.Loss
	logs    []record.Log
	summary *record.Summary
}

// growth is a growth record. line is what messages show of it: everything but
// the container, in few words.
type growth struct {
	record.Growth
	line string
}

func (g *growth) describe() string {
	var b strings.Builder
	fmt.Fprintf(&b, "#%d ", g.Seq)
	if p := g.Process; p == nil {
		b.WriteString("nobody")
	} else {
		fmt.Fprintf(&b, "%q[%d, of %d, %s", g.process(), p.PID, p.ParentPID, p.Executable)
		switch p.ContainerID {
		case "":
			b.WriteString(", host")
		case g.Container.ID:
		default:
			fmt.Fprintf(&b, ", container %.12s", p.ContainerID)
		}
		if p.Exited {
			b.WriteString(", exited")
		}
		b.WriteString("]")
	}
	path := fmt.Sprintf("%q", g.path())
	if len(path) > 300 {
		path = fmt.Sprintf("%s … %s (%d bytes)", path[:100], path[len(path)-100:], len(g.path()))
	}
	fmt.Fprintf(&b, " %s %s inode %d", path, g.File.Origin, g.File.Inode)
	if g.File.Deleted {
		b.WriteString(" deleted")
	}
	if !g.inLayer() {
		fmt.Fprintf(&b, " on %+v", g.Storage)
	}
	fmt.Fprintf(&b, " is %d/%d: size %+d disk %+d copied up %d written %d by %d, %s",
		g.File.Size, g.File.Allocated, g.SizeGrowth, g.DiskGrowth, g.CopyUpBytes, g.WrittenBytes, g.Writes, strings.Join(g.Causes, " "))
	return b.String()
}

func (g growth) process() string {
	if g.Process == nil {
		return "(nobody)"
	}
	return record.Raw(g.Process.Name, g.Process.NameB64)
}

func (g growth) path() string { return record.Raw(g.File.Path, g.File.PathB64) }

func (g growth) inLayer() bool { return g.Storage.Class == record.ClassLayer }

// lockedWriter guards the buffer for standard error.
type lockedWriter struct{ s *session }

func (w lockedWriter) Write(p []byte) (int, error) {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	return w.s.stderr.Write(p)
}

// launch starts layertrace without waiting for anything.
func launch(t *testing.T, args ...string) *session {
	t.Helper()
	return launchCommand(t, exec.Command(env.bin, append([]string{"watch", "-o", "ndjson"}, args...)...))
}

// launchCommand is launch with a command line of its own.
func launchCommand(t *testing.T, cmd *exec.Cmd) *session {
	t.Helper()
	s := &session{t: t, args: cmd.Args[1:], cmd: cmd, more: make(chan struct{}, 1), ended: make(chan struct{})}
	s.cmd.Stderr = lockedWriter{s}
	// A signal to the test's process group must not reach it twice.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	stdout, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatalf("starting %s: %v", env.bin, err)
	}
	go s.read(stdout)
	t.Cleanup(func() {
		select {
		case <-s.ended:
		default:
			_ = s.cmd.Process.Kill()
			<-s.ended
		}
		if t.Failed() {
			s.keep(t)
		}
	})
	return s
}

// watch starts layertrace with a short interval and waits until it counts.
func watch(t *testing.T, args ...string) *session {
	t.Helper()
	s := launch(t, append([]string{"--interval", "200ms"}, args...)...)
	s.ready()
	return s
}

var kept atomic.Int32

// keep saves what layertrace said, for those who run the tests with -artifacts.
func (s *session) keep(t *testing.T) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := kept.Add(1)
	for name, content := range map[string]string{"stream": strings.Join(s.lines, "\n") + "\n", "stderr": s.stderr.String()} {
		path := filepath.Join(t.ArtifactDir(), fmt.Sprintf("%s-%d", name, n))
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Logf("keeping the %s: %v", name, err)
		}
	}
}

// in lets a subtest, not its parent, fail where the session is used until the
// function it returns is called.
func (s *session) in(t *testing.T) (back func()) {
	parent := s.t
	s.t = t
	return func() { s.t = parent }
}

// ready waits for the session record.
func (s *session) ready() {
	s.t.Helper()
	began := time.Now()
	s.until(startLimit, "the session record", func(v *view) error {
		if v.session == nil {
			return errors.New("no session record")
		}
		return nil
	})
	s.t.Logf("layertrace counts after %.1f s", time.Since(began).Seconds())
}

func (s *session) read(stdout io.Reader) {
	r := bufio.NewReaderSize(stdout, 1<<16)
	for {
		line, err := r.ReadBytes('\n')
		if len(line) > 0 {
			s.mu.Lock()
			s.raw = append(s.raw, line)
			s.mu.Unlock()
			s.poke()
		}
		if err != nil {
			break
		}
	}
	s.wait = s.cmd.Wait()
	s.code = s.cmd.ProcessState.ExitCode()
	close(s.ended)
	s.poke()
}

func (s *session) poke() {
	select {
	case s.more <- struct{}{}:
	default:
	}
}

// refresh parses what has arrived. Every line is held to the schema and to the
// rules that hold for any stream.
func (s *session) refresh() {
	s.t.Helper()
	s.mu.Lock()
	raw := s.raw
	s.raw = nil
	s.mu.Unlock()
	for _, line := range raw {
		if err := s.take(line); err != nil {
			s.t.Fatalf("record %d: %v\n%s", len(s.lines), err, line)
		}
	}
}

func (s *session) take(line []byte) error {
	s.lines = append(s.lines, strings.TrimSuffix(string(line), "\n"))
	if !bytes.HasSuffix(line, []byte("\n")) {
		return errors.New("the line is not ended: it was not written whole")
	}
	if err := outputtest.Validate(line); err != nil {
		return fmt.Errorf("not by the schema: %w", err)
	}
	var head record.Header
	if err := json.Unmarshal(line, &head); err != nil {
		return err
	}
	if before := s.lastTime; head.Time.Before(before) {
		return fmt.Errorf("the record before is of %v", before)
	}
	s.lastTime = head.Time.Time
	if head.Seq != uint64(len(s.lines)) {
		return fmt.Errorf("seq is %d, want %d: the numbers have a gap", head.Seq, len(s.lines))
	}
	if first := head.Seq == 1; first != (head.Type == "session") {
		return errors.New("a session record comes first and only first")
	}
	if s.summary != nil {
		return errors.New("a record after the summary")
	}
	parse := func(into any) error {
		d := json.NewDecoder(bytes.NewReader(line))
		d.DisallowUnknownFields()
		return d.Decode(into)
	}
	switch head.Type {
	case "session":
		s.session = &record.Session{}
		return parse(s.session)
	case "growth":
		var g growth
		if err := parse(&g.Growth); err != nil {
			return err
		}
		g.line = g.describe()
		s.growth = append(s.growth, g)
	case "layer":
		var l record.Layer
		if err := parse(&l); err != nil {
			return err
		}
		s.layers = append(s.layers, l)
	case "container":
		var c record.ContainerEvent
		if err := parse(&c); err != nil {
			return err
		}
		s.events = append(s.events, c)
	case "loss":
		var l record.Loss
		if err := parse(&l); err != nil {
			return err
		}
		s.losses = append(s.losses, l)
	case "log":
		var l record.Log
		if err := parse(&l); err != nil {
			return err
		}
		s.logs = append(s.logs, l)
	case "summary":
		s.summary = &record.Summary{}
		return parse(s.summary)
	default:
		return fmt.Errorf("unknown type %q", head.Type)
	}
	return nil
}

// until waits until cond holds for the records so far.
func (s *session) until(limit time.Duration, what string, cond func(*view) error) {
	s.t.Helper()
	timeout := time.NewTimer(limit)
	defer timeout.Stop()
	for {
		over := false
		select {
		case <-s.ended:
			over = true
		default:
		}
		s.refresh()
		err := cond(&s.view)
		if err == nil {
			return
		}
		if over {
			s.t.Fatalf("layertrace ended (exit code %d) before %s: %v\n%s", s.code, what, err, s.dump())
		}
		select {
		case <-s.more:
		case <-timeout.C:
			s.t.Fatalf("not within %s: %s: %v\n%s", limit, what, err, s.dump())
		}
	}
}

// dump is the end of the stream and of standard error, for messages.
func (s *session) dump() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	lines := s.lines
	if len(lines) > 12 {
		lines = lines[len(lines)-12:]
	}
	return fmt.Sprintf("the last %d of %d records:\n%s\nstandard error:\n%s", len(lines), len(s.lines), strings.Join(lines, "\n"), tail(s.stderr.String(), 30))
}

func (s *session) errors() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stderr.String()
}

func tail(text string, lines int) string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	if len(all) > lines {
		all = all[len(all)-lines:]
	}
	return strings.Join(all, "\n")
}

// exited waits for the end and requires this exit code.
func (s *session) exited(code int) {
	s.t.Helper()
	select {
	case <-s.ended:
	case <-time.After(exitLimit):
		// A Go program that hangs says where.
		_ = s.cmd.Process.Signal(syscall.SIGQUIT)
		select {
		case <-s.ended:
		case <-time.After(10 * time.Second):
		}
		s.t.Fatalf("layertrace did not end within %s\n%s\nits goroutines:\n%s", exitLimit, s.dump(), tail(s.errors(), 200))
	}
	s.refresh()
	if s.code != code {
		s.t.Fatalf("layertrace %s: exit code %d (%v), want %d\n%s", strings.Join(s.args, " "), s.code, s.wait, code, s.dump())
	}
}

// stop ends the run as Ctrl-C does.
func (s *session) stop() {
	s.t.Helper()
	if err := s.cmd.Process.Signal(os.Interrupt); err != nil {
		s.t.Fatalf("interrupting layertrace: %v\n%s", err, s.dump())
	}
	s.exited(0)
	s.endedBy(record.EndedSignal)
}

// endedBy requires a summary that says so.
func (s *session) endedBy(how string) {
	s.t.Helper()
	if s.summary == nil {
		s.t.Fatalf("no summary at the end\n%s", s.dump())
	}
	if s.summary.Ended != how {
		s.t.Errorf("the summary says ended %q, want %q", s.summary.Ended, how)
	}
}

// total is a sum over growth records.
type total struct {
	size, disk, copyUp int64
	written, writes    uint64
	records            int
	causes             []string
}

func (a *total) add(g *growth) {
	a.size += g.SizeGrowth
	a.disk += g.DiskGrowth
	a.copyUp += g.CopyUpBytes
	a.written += g.WrittenBytes
	a.writes += g.Writes
	a.records++
	for _, c := range g.Causes {
		if !slices.Contains(a.causes, c) {
			a.causes = append(a.causes, c)
		}
	}
}

// sum adds up the records for which keep holds.
func (v *view) sum(keep func(*growth) bool) total {
	var a total
	for i := range v.growth {
		if keep(&v.growth[i]) {
			a.add(&v.growth[i])
		}
	}
	return a
}

// of selects the layer records of one container.
func (b *box) of(g *growth) bool { return g.Container.ID == b.id && g.inLayer() }

// by is what processes of that name did to the box's layer.
func (v *view) by(b *box, name string) total {
	return v.sum(func(g *growth) bool { return b.of(g) && g.process() == name })
}

// byIn is what processes of that name did to one path of the box's layer.
func (v *view) byIn(b *box, name, path string) total {
	return v.sum(func(g *growth) bool { return b.of(g) && g.process() == name && g.path() == path })
}

// lines are the records for which keep holds, for messages.
func (v *view) linesOf(keep func(*growth) bool) string {
	var out []string
	for i := range v.growth {
		if keep(&v.growth[i]) {
			out = append(out, v.growth[i].line)
		}
	}
	if len(out) == 0 {
		return "(no such records)"
	}
	if len(out) > 40 {
		out = append(out[:20:20], append([]string{fmt.Sprintf("… %d more …", len(out)-40)}, out[len(out)-20:]...)...)
	}
	return strings.Join(out, "\n")
}

// layersOf are the layer records of the box.
func (v *view) layersOf(b *box) []record.Layer {
	var out []record.Layer
	for _, l := range v.layers {
		if l.Container.ID == b.id {
			out = append(out, l)
		}
	}
	return out
}

// lastLayer is the box's newest layer record.
func (v *view) lastLayer(b *box) (record.Layer, error) {
	all := v.layersOf(b)
	if len(all) == 0 {
		return record.Layer{}, fmt.Errorf("no layer record for %s yet", b.name)
	}
	return all[len(all)-1], nil
}

// eventsOf are the names of the box's container events, in order.
func (v *view) eventsOf(b *box) []string {
	var out []string
	for _, e := range v.events {
		if e.Container.ID == b.id {
			out = append(out, e.Event)
		}
	}
	return out
}

// event is the box's newest container event of that name.
func (v *view) event(b *box, name string) (record.ContainerEvent, error) {
	for _, e := range slices.Backward(v.events) {
		if e.Container.ID == b.id && e.Event == name {
			return e, nil
		}
	}
	return record.ContainerEvent{}, fmt.Errorf("no container event %q for %s; there were %v", name, b.name, v.eventsOf(b))
}
