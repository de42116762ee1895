package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
)

// event is a line of test2json's output; see `go doc test2json`.
type event struct {
	Action     string
	Package    string
	ImportPath string // instead of Package, for what the compiler says
	Test       string
	Elapsed    float64
	Output     string
}

type options struct{ verbose, strict bool }

// run is one `go test`, followed event by event.
type run struct {
	counts
	options
	out      io.Writer
	packages map[string]*testPackage
	failures []string // what failed, in a few lines each
}

// testPackage is a package between its first and its last event.
type testPackage struct {
	counts
	output  strings.Builder             // outside of any test
	running map[string]*strings.Builder // output of top-level tests, with their subtests'
	said    map[string]string           // output of each test and subtest by itself
}

func newRun(out io.Writer, o options) *run {
	return &run{out: out, options: o, packages: map[string]*testPackage{}}
}

// bootEvent comes at the start of a suite in a VM. If the emulator fails, the VM is
// booted again and so the suite begins again: what it had counted is void.
const bootEvent = `{"Action":"boot"}`

func (r *run) line(line []byte) {
	if string(bytes.TrimSpace(line)) == bootEvent {
		*r = *newRun(r.out, r.options)
		return
	}
	var e event
	if !bytes.HasPrefix(line, []byte("{")) || json.Unmarshal(line, &e) != nil {
		// Not from a test: the go command's own complaints.
		r.out.Write(line)
		return
	}
	if e.Package == "" {
		if e.Action == "build-output" {
			io.WriteString(r.out, e.Output)
		}
		return
	}
	p := r.packages[e.Package]
	if p == nil {
		p = &testPackage{running: map[string]*strings.Builder{}, said: map[string]string{}}
		r.packages[e.Package] = p
	}
	if e.Test == "" {
		r.packageEvent(p, e)
		return
	}
	r.testEvent(p, e)
}

func (r *run) testEvent(p *testPackage, e event) {
	name, _, isSubtest := strings.Cut(e.Test, "/")
	output := p.running[name]
	if output == nil {
		output = &strings.Builder{}
		p.running[name] = output
	}
	if e.Action == "output" {
		output.WriteString(e.Output)
		p.said[e.Test] += e.Output
		return
	}
	if e.Action == "fail" {
		if text := gist(p.said[e.Test]); text != "" {
			r.failures = append(r.failures, fmt.Sprintf("FAIL  %s in %s:\n%s", e.Test, e.Package, text))
		}
	}
	if e.Action != "run" {
		delete(p.said, e.Test)
	}
	if isSubtest {
		return
	}
	switch e.Action {
	case "pass":
		p.passed++
		if r.verbose {
			fmt.Fprintf(r.out, "ok    %s (%.1fs)\n", name, e.Elapsed)
		}
	case "skip":
		p.skipped++
		fmt.Fprintf(r.out, "skip  %s: %s\n", name, reason(output.String()))
	case "fail":
		p.failed++
		fmt.Fprintf(r.out, "FAIL  %s (%.1fs)\n%s", name, e.Elapsed, output)
	default:
		return
	}
	delete(p.running, name)
}

const (
	gistEntries = 6   // of what a failed test said last
	gistLines   = 4   // of each entry
	gistWidth   = 400 // bytes of each line
)

// gist is the beginning of each of the last things that a failed test said by itself;
// "" if it only failed because of its subtests.
func gist(output string) string {
	var entries [][]string
	for line := range strings.Lines(output) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "===") || strings.HasPrefix(line, "---") {
			continue
		}
		if len(entries) == 0 || saidByTest.MatchString(line) {
			entries = append(entries, nil)
		}
		if last := &entries[len(entries)-1]; len(*last) < gistLines {
			*last = append(*last, "      "+line[:min(len(line), gistWidth)]+"\n")
		}
	}
	return strings.Join(slices.Concat(entries[max(0, len(entries)-gistEntries):]...), "")
}

// saidByTest is how the testing package begins what a test logs.
var saidByTest = regexp.MustCompile(`^\w+\.go:\d+: `)

// reason is what the test said last before the go command's own lines.
func reason(output string) string {
	said := ""
	for line := range strings.Lines(output) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "===") && !strings.HasPrefix(line, "---") {
			said = line
		}
	}
	return said
}

func (r *run) packageEvent(p *testPackage, e event) {
	switch e.Action {
	case "output":
		p.output.WriteString(e.Output)
	case "pass":
		r.finish(p, e.Package)
	case "fail":
		if p.failed == 0 || len(p.running) > 0 {
			p.abort(r.out)
		}
		r.finish(p, e.Package)
	case "skip": // a package without test files
		delete(r.packages, e.Package)
	}
}

// abort counts what a package failed to finish. Its own output is then the only explanation.
func (p *testPackage) abort(out io.Writer) {
	for name, output := range p.running {
		fmt.Fprintf(out, "FAIL  %s did not end\n%s", name, output)
	}
	p.failed += max(len(p.running), 1)
	io.WriteString(out, p.output.String())
}

func (r *run) finish(p *testPackage, name string) {
	if p.ran() == 0 {
		// A package that tests nothing here should have said why.
		fmt.Fprintf(r.out, "none  %s: %s\n", name, reason(p.notes()))
		if r.strict {
			p.failed++
		}
	}
	if p.ran() > 0 {
		fmt.Fprintf(r.out, "%-5s %s: %s\n", p.verdict(), name, p.counts)
	}
	r.add(p.counts)
	delete(r.packages, name)
}

func (p *testPackage) verdict() string {
	if p.failed > 0 {
		return "FAIL"
	}
	return "ok"
}

// notes is the package's output without the go command's verdicts.
func (p *testPackage) notes() string {
	lines := slices.DeleteFunc(strings.SplitAfter(p.output.String(), "\n"), func(line string) bool {
		return line == "PASS\n" || strings.HasPrefix(line, "ok  \t") || strings.HasPrefix(line, "testing: warning")
	})
	return strings.Join(lines, "")
}

// end is called when no more events come, also when that is too early.
func (r *run) end() {
	for name, p := range r.packages {
		fmt.Fprintf(r.out, "FAIL  %s did not end\n", name)
		p.abort(r.out)
		r.add(p.counts)
	}
	if r.ran() == 0 {
		fmt.Fprintln(r.out, "FAIL  no test was run")
		r.failed++
	}
}
