// Command matrix makes docs/exactness.md of test runs on several kernels and file
// systems: their events and counts, as tally has saved them in files named KERNEL-FS.json
// and KERNEL-FS.counts, and the commit of what ran, in KERNEL-FS.commit.
//
//	go run ./test/matrix bin/results/matrix/6.1-ext4.json … > docs/exactness.md
//
// A run that is not there, or did not come to its end, is a column that says nothing. The
// document is written all the same; then matrix exits with 1.
package main

import (
	"bufio"
	"bytes"
	"cmp"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// preface is what the document says above its tables.
//
//go:embed preface.md
var preface string

// limits is what it says below them: where exactness ends, by how much.
//
//go:embed limits.md
var limits string

// Verdicts, as the tables show them.
const (
	exact      = "="
	sizeOnly   = "≈" // in size; allocated bytes cannot be read there
	doubtful   = "!" // passed by itself, but what it is a part of has failed
	impossible = "·" // the kernel or the file system cannot do it
	wrong      = "**≠**"
	missing    = "?"
)

// notHere begins what a test says that found the kernel or the file system unable
// to do what it is about.
const notHere = "n/a: "

// notDisk begins what a test says that found allocated bytes left to the audit. It holds
// for its subtests, too.
const notDisk = "size only: "

// column is one run: a kernel with a file system.
type column struct {
	name       string // as in the file's name
	kernel     string
	commit     string            // of the programs and tests; empty if nobody kept it
	incomplete string            // why the run says nothing; empty if it came to its end
	verdicts   map[string]string // by test
	noDisk     map[string]bool   // tests that said notDisk
	races      map[string]bool   // tests that said faster
	packages   map[string]*tested
	played     []played
}

// tested is what became of a package.
type tested struct {
	ended, failed bool
	failedTest    bool            // which explains why the package failed
	running       map[string]bool // tests
}

// name returns the column of a file of results.
func name(file string) string { return strings.TrimSuffix(filepath.Base(file), ".json") }

// title is the column's name at the head of a table.
func (c *column) title() string { return strings.Replace(c.name, "-", " ", 1) }

// fileSystem is the second half of the column's name.
func (c *column) fileSystem() string {
	_, fileSystem, _ := strings.Cut(c.name, "-")
	return fileSystem
}

// release is the kernel's, or what the column calls it.
func (c *column) release() string {
	name, _, _ := strings.Cut(c.name, "-")
	return cmp.Or(c.kernel, name)
}

// played is what a run of the model checker says of itself in the end.
type played struct{ operations, succeeded, histories, seconds int }

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "matrix:", err)
		os.Exit(1)
	}
}

func run(files []string, out io.Writer) error {
	if len(files) == 0 {
		return fmt.Errorf("no results: make test-matrix")
	}
	columns, err := readAll(files)
	if err != nil {
		return err
	}
	if _, err := io.WriteString(out, document(columns)); err != nil {
		return err
	}
	return errors.Join(complete(columns), proven(columns))
}

func readAll(files []string) ([]*column, error) {
	var columns []*column
	for _, file := range files {
		c, err := readRun(file)
		if err != nil {
			return nil, err
		}
		columns = append(columns, c)
	}
	dropIncomplete(columns)
	return columns, nil
}

// readRun reads what a run has left.
func readRun(file string) (*column, error) {
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return &column{name: name(file), incomplete: "was not run"}, nil
	}
	if err != nil {
		return nil, err
	}
	c := read(data)
	c.name = name(file)
	base := strings.TrimSuffix(file, ".json")
	// Tally writes the counts last, and removes those of an earlier run first.
	if _, err := os.Stat(base + ".counts"); errors.Is(err, fs.ErrNotExist) {
		c.incomplete = "left no counts"
	} else if err != nil {
		return nil, err
	}
	commit, err := os.ReadFile(base + ".commit")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	c.commit = strings.TrimSpace(string(commit))
	return c, nil
}

// dropIncomplete finds the runs that did not come to their end, and takes from them what
// they say: what came later may have been wrong.
func dropIncomplete(columns []*column) {
	all := map[string]bool{}
	for _, c := range columns {
		for name := range c.packages {
			all[name] = true
		}
	}
	for _, c := range columns {
		for _, name := range slices.Sorted(maps.Keys(all)) {
			if c.incomplete != "" {
				break
			}
			c.incomplete = c.packages[name].broken(name)
		}
		if c.incomplete != "" {
			c.verdicts, c.played = nil, nil
		}
	}
}

// broken says why the package did not come to its end; empty if it did, whatever came of
// its tests. A run that broke off between two packages knows nothing of the second.
func (p *tested) broken(name string) string {
	switch {
	case p == nil:
		return name + " was not run"
	case !p.ended, p.failed && (len(p.running) > 0 || !p.failedTest):
		return name + " did not come to its end"
	}
	return ""
}

// complete is an error that tells of the runs that did not come to their end.
func complete(columns []*column) error {
	var incomplete []string
	for _, c := range columns {
		if c.incomplete != "" {
			incomplete = append(incomplete, c.name+": "+c.incomplete)
		}
	}
	if incomplete == nil {
		return nil
	}
	return fmt.Errorf("runs that say nothing: %s", strings.Join(incomplete, "; "))
}

func newColumn() *column {
	return &column{
		verdicts: map[string]string{}, noDisk: map[string]bool{}, races: map[string]bool{},
		packages: map[string]*tested{},
	}
}

// read takes the verdicts out of test2json's events.
func read(data []byte) *column {
	c := newColumn()
	cannot := map[string]bool{}
	lines := bufio.NewScanner(bytes.NewReader(data))
	lines.Buffer(nil, 1<<24)
	for lines.Scan() {
		var e struct{ Action, Package, Test, Output string }
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			continue
		}
		if e.Action == "boot" { // the run began again
			c = newColumn()
			clear(cannot)
		}
		var p played
		if n, _ := fmt.Sscanf(e.Output, "model: %d operations (%d without an error) in %d histories, %d seconds",
			&p.operations, &p.succeeded, &p.histories, &p.seconds); n == 4 {
			c.played = append(c.played, p)
		}
		name, kernel, ok := strings.Cut(e.Package, " on ")
		if !ok {
			continue
		}
		c.kernel = kernel
		if c.packages[name] == nil {
			c.packages[name] = &tested{running: map[string]bool{}}
		}
		c.packages[name].take(e.Action, e.Test)
		if e.Test == "" {
			continue
		}
		switch e.Action {
		case "output":
			cannot[e.Test] = cannot[e.Test] || strings.Contains(e.Output, notHere)
			c.noDisk[e.Test] = c.noDisk[e.Test] || strings.Contains(e.Output, notDisk)
			c.races[e.Test] = c.races[e.Test] || strings.Contains(e.Output, faster)
		case "fail":
			c.verdicts[e.Test] = wrong
		case "pass":
			c.verdicts[e.Test] = exact
			if cannot[e.Test] {
				c.verdicts[e.Test] = impossible
			}
		case "skip": // for want of the kernel, or of a program
			c.verdicts[e.Test] = missing
			if cannot[e.Test] {
				c.verdicts[e.Test] = impossible
			}
		}
	}
	c.weigh()
	return c
}

// totals is the subtest that holds the sums of all the others against the disk.
const totals = "/totals"

// weigh corrects the verdicts by what else the tests have said.
func (c *column) weigh() {
	unsure := map[string]bool{}
	for test, verdict := range c.verdicts {
		if verdict == wrong && (!c.partFailed(test) || c.verdicts[test+totals] == wrong) {
			unsure[test] = true
		}
	}
	for test, verdict := range c.verdicts {
		switch {
		case verdict != exact:
		case within(test, func(t string) bool { return unsure[t] }):
			c.verdicts[test] = doubtful
		case within(test, func(t string) bool { return c.noDisk[t] }):
			c.verdicts[test] = sizeOnly
		}
	}
}

// partFailed reports whether a subtest explains why the test failed.
func (c *column) partFailed(test string) bool {
	for other, verdict := range c.verdicts {
		if verdict == wrong && strings.HasPrefix(other, test+"/") {
			return true
		}
	}
	return false
}

// within tells whether something is so of a test, or of one that it is a part of.
func within(test string, so func(test string) bool) bool {
	for test != "" {
		if so(test) {
			return true
		}
		test = test[:max(strings.LastIndex(test, "/"), 0)]
	}
	return false
}

// take follows the package, or a test of it.
func (p *tested) take(action, test string) {
	switch {
	case action == "run":
		p.running[test] = true
	case action != "pass" && action != "fail" && action != "skip":
	case test == "":
		p.ended, p.failed = true, action == "fail"
	default:
		delete(p.running, test)
		p.failedTest = p.failedTest || action == "fail"
	}
}

// ways is the test whose subtests are the ways to change a layer.
const ways = "TestOneWay/"

// hookTests are those whose subtests are hooks.
var hookTests = []string{"TestHooks/", "TestPlainHooks/"}

// hook returns the hook that a test is about.
func hook(test string) (name string, ok bool) {
	for _, prefix := range hookTests {
		if name, ok := strings.CutPrefix(test, prefix); ok {
			return name, true
		}
	}
	return "", false
}

// faster is what the trial of a race says if it found nothing wrong without the hook.
const faster = notHere + "each time, the same one was faster"

// proven is an error that tells of hooks without which nothing has gone wrong in any run.
// Of a race it is enough to have been tried.
func proven(columns []*column) error {
	shown := map[string]bool{}
	for _, c := range columns {
		for test, verdict := range c.verdicts {
			if name, ok := hook(test); ok {
				shown[name] = shown[name] || verdict == exact || verdict == impossible && c.races[test]
			}
		}
	}
	var not []string
	for _, name := range slices.Sorted(maps.Keys(shown)) {
		if !shown[name] {
			not = append(not, name)
		}
	}
	if not != nil {
		return fmt.Errorf("hooks of which no run shows that something is wrong without them: %s", strings.Join(not, ", "))
	}
	return nil
}

// repeats is the test whose subtests all do the same.
const repeats = "TestBusyStart/"

func document(columns []*column) string {
	var b strings.Builder
	b.WriteString(preface)
	commits(&b, columns)
	b.WriteString("\n| column | kernel | file system | exact | in size only | in doubt | not possible there | failed |\n|---|---|---|---|---|---|---|---|\n")
	for _, c := range columns {
		if c.incomplete != "" {
			fmt.Fprintf(&b, "| %s | %s | %s | %[4]s | %[4]s | %[4]s | %[4]s | %[4]s |\n", c.name, c.release(), c.fileSystem(), missing)
			continue
		}
		counts := map[string]int{}
		for test, verdict := range c.verdicts {
			// A test with subtests is the sum of these, unless it failed by itself.
			if !c.parent(test) || verdict == wrong && !c.partFailed(test) {
				counts[verdict]++
			}
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %d | %d | %d | %d | %d |\n", c.name, c.release(), c.fileSystem(),
			counts[exact], counts[sizeOnly], counts[doubtful], counts[impossible], counts[wrong])
	}
	b.WriteString("\n## Ways to change a layer\n\n")
	table(&b, columns, func(test string) (string, bool) { return strings.CutPrefix(test, ways) })
	b.WriteString("\n## Hooks\n\nEach cell is a trial that is passed with the hook, and in which something is wrong without it.\n\n")
	table(&b, columns, hook)
	b.WriteString("\n## Everything else\n\n")
	table(&b, columns, func(test string) (string, bool) {
		_, isHook := hook(test)
		return test, !isHook && !strings.HasPrefix(test, ways) && !strings.HasPrefix(test, repeats)
	})
	histories(&b, columns)
	b.WriteString("\n" + limits)
	return b.String()
}

// commits says what ran: one line if it was the same everywhere.
func commits(b *strings.Builder, columns []*column) {
	by := map[string][]string{}
	for _, c := range columns {
		if c.incomplete == "" {
			by[c.commit] = append(by[c.commit], c.title())
		}
	}
	b.WriteString("\n")
	for _, commit := range slices.Sorted(maps.Keys(by)) {
		text := "a commit that was not kept"
		if commit != "" {
			clean, dirty := strings.CutSuffix(commit, "-dirty")
			text = "commit `" + clean + "`"
			if dirty {
				text += " with changes that were not committed"
			}
		}
		if len(by) == 1 {
			fmt.Fprintf(b, "Programs and tests of %s.\n", text)
		} else {
			fmt.Fprintf(b, "- programs and tests of %s: %s\n", text, strings.Join(by[commit], ", "))
		}
	}
}

// histories writes what the model checker's runs have come to.
func histories(b *strings.Builder, columns []*column) {
	b.WriteString("\n## Random histories\n\nWhat the model checker played: random operations of three processes, one after the other (also with\n" +
		"all that is in memory written back in between) and at once, on overlays mounted in several ways; the\n" +
		"books are held against the disk after each history. Some operations are meant to fail.\n\n" +
		"| kernel | file system | operations | without an error | histories | minutes | differences |\n|---|---|---|---|---|---|---|\n")
	var sum played
	row := func(kernel, fileSystem string, p played, differences string) {
		fmt.Fprintf(b, "| %s | %s | %d | %d | %d | %.1f | %s |\n", kernel, fileSystem,
			p.operations, p.succeeded, p.histories, float64(p.seconds)/60, differences)
	}
	all := exact
	for _, c := range columns {
		var own played
		for _, p := range c.played {
			own.add(p)
		}
		sum.add(own)
		verdict := cmp.Or(c.verdicts["TestModel"], missing)
		all = worse(all, verdict)
		row(c.release(), c.fileSystem(), own, verdict)
	}
	row("**all**", "", sum, all)
}

// worse is the one that says less of how exact the books are.
func worse(a, b string) string {
	order := []string{exact, sizeOnly, impossible, missing, doubtful, wrong}
	if slices.Index(order, b) > slices.Index(order, a) {
		return b
	}
	return a
}

func (p *played) add(o played) {
	p.operations += o.operations
	p.succeeded += o.succeeded
	p.histories += o.histories
	p.seconds += o.seconds
}

// parent reports whether a test is the sum of its subtests.
func (c *column) parent(test string) bool {
	for other := range c.verdicts {
		if strings.HasPrefix(other, test+"/") {
			return true
		}
	}
	return false
}

// table writes a row for each test that row gives a name.
func table(b *strings.Builder, columns []*column, row func(test string) (string, bool)) {
	rows := map[string]string{}
	for _, c := range columns {
		for test := range c.verdicts {
			if name, ok := row(test); ok {
				rows[name] = test
			}
		}
	}
	b.WriteString("| |")
	for _, c := range columns {
		fmt.Fprintf(b, " %s |", c.title())
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(columns)) + "\n")
	for _, name := range slices.Sorted(maps.Keys(rows)) {
		fmt.Fprintf(b, "| %s |", literal(name))
		for _, c := range columns {
			fmt.Fprintf(b, " %s |", c.verdict(rows[name]))
		}
		b.WriteString("\n")
	}
}

// verdict is what the column's cell of a test shows. A subtest is not possible where what
// it is a part of is not.
func (c *column) verdict(test string) string {
	if verdict := c.verdicts[test]; verdict != "" {
		return verdict
	}
	if within(test, func(t string) bool { return c.verdicts[t] == impossible }) {
		return impossible
	}
	return missing
}

// literal keeps markdown from taking parts of a subtest's name for markup.
func literal(name string) string {
	if !strings.Contains(name, "/") {
		return name
	}
	return "`" + strings.ReplaceAll(name, "|", `\|`) + "`"
}
