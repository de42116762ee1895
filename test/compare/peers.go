//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

const (
	filetopName  = "filetop"
	bpftraceName = "bpftrace"
	fatraceName  = "fatrace"
)

// The sum of what vfs_write returned, by the process's name, for regular files: the processes also
// write reports to a pipe. What interval prints tells whether it counts.
const bpftraceProgram = `
kretfunc:vfs_write /(args->file->f_inode->i_mode & 0xf000) == 0x8000 && retval > 0/ { @written[comm] = sum(retval); }
interval:ms:200 { print(@written); }
`

// peers are the other tools. One that failed is nil, with the reason in failures.
type peers struct {
	filetop, bpftrace, fatrace *tool
	failures                   map[string]error

	comm    string // ours
	scratch string // a file to write to
	beside  string // a file to read, on the layer's file system
}

// startPeers starts them one after the other, each until it is attached. One that does not load
// here is no error.
func startPeers(ctx context.Context, dir, upper string) (*peers, error) {
	comm, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		return nil, err
	}
	p := &peers{
		failures: map[string]error{},
		comm:     strings.TrimSuffix(string(comm), "\n"),
		scratch:  filepath.Join(dir, "scratch"),
		beside:   filepath.Join(filepath.Dir(upper), "link"), // overlay2 keeps the layer's short name there
	}
	start := func(name string, attached func(*tool) (bool, error), args ...string) *tool {
		progress("waiting for %s", name)
		t, err := launch(ctx, dir, name, args...)
		if err != nil {
			p.fail(name, err)
			return nil
		}
		if err := t.ready(func() (bool, error) { return attached(t) }); err != nil {
			t.kill()
			p.fail(name, err)
			return nil
		}
		return t
	}
	// Longer than any run: filetop prints when it is interrupted, too, and between reading its
	// counters and clearing them it would lose what happens.
	const interval = "86400"
	p.filetop = start(filetopName, catchesInterrupt, "--noclear", "--all", "--rows", "10240", interval)
	p.bpftrace = start(bpftraceName, p.countedByBpftrace, "-B", "none", "-f", "json", "-e", bpftraceProgram)
	p.fatrace = start(fatraceName, p.reportedByFatrace)
	return p, ctx.Err()
}

func (p *peers) fail(name string, err error) {
	progress("%s: %v", name, err)
	p.failures[name] = err
}

// catchesInterrupt: filetop says nothing before its first interval has passed, but it installs its
// handler of SIGINT right after it has attached.
func catchesInterrupt(t *tool) (bool, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", t.cmd.Process.Pid))
	if err != nil {
		return false, err
	}
	_, mask, _ := strings.Cut(string(status), "\nSigCgt:")
	mask, _, _ = strings.Cut(mask, "\n")
	caught, err := strconv.ParseUint(strings.TrimSpace(mask), 16, 64)
	if err != nil {
		return false, fmt.Errorf("reading the status of %s: %w", t.name, err)
	}
	const interrupt = 1 << 1 // signal n is bit n-1
	return caught&interrupt != 0, nil
}

// countedByBpftrace writes something and looks whether that has been counted.
func (p *peers) countedByBpftrace(t *tool) (bool, error) {
	if err := os.WriteFile(p.scratch, []byte("x"), 0o600); err != nil {
		return false, err
	}
	said, err := t.said()
	if err != nil {
		return false, err
	}
	written, err := parseBpftrace(said)
	return written[p.comm] > 0, err
}

// reportedByFatrace opens a file and looks whether that has been reported.
func (p *peers) reportedByFatrace(t *tool) (bool, error) {
	if n, err := ownOpens(t); n > 0 || err != nil {
		return n > 0, err
	}
	return false, p.open()
}

func (p *peers) open() error {
	f, err := os.Open(p.beside)
	if err != nil {
		return err
	}
	return f.Close()
}

// ownOpens is how often fatrace says that we opened a file.
func ownOpens(t *tool) (int, error) {
	said, err := t.said()
	n := 0
	for _, a := range parseFatrace(said) {
		if a.pid == os.Getpid() && strings.Contains(a.types, "O") {
			n++
		}
	}
	return n, err
}

// catchUp waits until fatrace has reported all that has happened, since it looks up the names of
// processes only then. Its events are in order: the last stands for those before it.
func (p *peers) catchUp() error {
	if p.fatrace == nil {
		return nil
	}
	before, err := ownOpens(p.fatrace)
	if err != nil {
		return err
	}
	if err := p.open(); err != nil {
		return err
	}
	err = p.fatrace.ready(func() (bool, error) {
		n, err := ownOpens(p.fatrace)
		return n > before, err
	})
	if err != nil {
		p.fatrace.kill()
		p.fail(fatraceName, err)
		p.fatrace = nil
	}
	return nil
}

// findings are what the peers said, by process. A map is nil if the peer failed.
type findings struct {
	filetop, bpftrace map[string]int64  // bytes
	fatrace           map[string]string // types of events
}

// stop ends the peers.
func (p *peers) stop() findings {
	end := func(name string, t *tool) (said string, ok bool) {
		if t == nil {
			return "", false
		}
		said, err := t.stop()
		if err != nil {
			p.fail(name, err)
		}
		return said, err == nil
	}
	var f findings
	if said, ok := end(filetopName, p.filetop); ok {
		f.filetop = parseFiletop(said)
	}
	if said, ok := end(bpftraceName, p.bpftrace); ok {
		written, err := parseBpftrace(said)
		if err != nil {
			p.fail(bpftraceName, err)
		}
		f.bpftrace = written
	}
	if said, ok := end(fatraceName, p.fatrace); ok {
		f.fatrace = changes(parseFatrace(said))
	}
	return f
}

// parseFiletop adds up what was written to regular files, by process:
//
//	TID     COMM             READS  WRITES R_Kb    W_Kb    T FILE
//	1234    w-write          0      16     0       1024    R write
//
// Rows of processes with a blank in their names look different and are left out.
func parseFiletop(text string) map[string]int64 {
	written := map[string]int64{}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 8 || f[6] != "R" || f[3] == "0" {
			continue
		}
		if kib, err := strconv.ParseInt(f[5], 10, 64); err == nil {
			written[f[1]] += kib << 10
		}
	}
	return written
}

// parseBpftrace returns the map as it was printed last.
func parseBpftrace(text string) (map[string]int64, error) {
	written := map[string]int64{}
	for line := range strings.Lines(text) {
		// The last line may not be complete yet.
		if !strings.HasPrefix(line, "{") || !strings.HasSuffix(line, "\n") {
			continue
		}
		var said struct {
			Type string
			Data json.RawMessage
		}
		if err := json.Unmarshal([]byte(line), &said); err != nil {
			return nil, fmt.Errorf("it said %q: %w", line, err)
		}
		if said.Type != "map" {
			continue
		}
		var data struct {
			Written map[string]int64 `json:"@written"`
		}
		if err := json.Unmarshal(said.Data, &data); err != nil {
			return nil, fmt.Errorf("it said %q: %w", line, err)
		}
		written = data.Written
	}
	return written, nil
}

// access is what a line of fatrace's says, but for the path.
type access struct {
	process string
	pid     int
	types   string
}

// As in "w-write(336): +   /var/lib/docker/overlay2/6704/diff/w".
var fatraceLine = regexp.MustCompile(`^(.*)\((\d+)\): ([A-Z+<>]+) `)

func parseFatrace(text string) []access {
	var all []access
	for line := range strings.Lines(text) {
		m := fatraceLine.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		if pid, err := strconv.Atoi(m[2]); err == nil {
			all = append(all, access{process: m[1], pid: pid, types: m[3]})
		}
	}
	return all
}

// changes are the types of events that change something, by process, each once and in one order.
func changes(all []access) map[string]string {
	seen := map[string]string{}
	for _, a := range all {
		seen[a.process] += a.types
	}
	types := map[string]string{}
	for process := range seen {
		for _, t := range "W+D<>" {
			if strings.ContainsRune(seen[process], t) {
				types[process] += string(t)
			}
		}
	}
	return types
}
