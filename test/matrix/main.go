// Command matrix makes docs/exactness.md of test runs on several kernels and file
// systems: their events, as tally has saved them in files named KERNEL-FS.json.
//
//	go run ./test/matrix bin/results/matrix/*.json > docs/exactness.md
package main

import (
	"bufio"
	"bytes"
	"cmp"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
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
	impossible = "·" // the kernel or the file system cannot do it
	wrong      = "**≠**"
	missing    = "?"
)

// notHere begins what a test says that found the kernel or the file system unable
// to do what it is about.
const notHere = "n/a: "

// column is one run: a kernel with a file system.
type column struct {
	name     string // as in the file's name
	kernel   string
	verdicts map[string]string // by test
	played   []played
}

// name returns the column of a file of results.
func name(file string) string { return strings.TrimSuffix(filepath.Base(file), ".json") }

// fileSystem is the second half of the column's name.
func (c *column) fileSystem() string {
	_, fileSystem, _ := strings.Cut(c.name, "-")
	return fileSystem
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
	_, err = io.WriteString(out, document(columns))
	return err
}

func readAll(files []string) ([]*column, error) {
	var columns []*column
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		c := read(data)
		c.name = name(file)
		columns = append(columns, c)
	}
	return columns, nil
}

// read takes the verdicts out of test2json's events.
func read(data []byte) *column {
	c := &column{verdicts: map[string]string{}}
	cannot := map[string]bool{}
	lines := bufio.NewScanner(bytes.NewReader(data))
	lines.Buffer(nil, 1<<24)
	for lines.Scan() {
		var e struct{ Action, Package, Test, Output string }
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			continue
		}
		if e.Action == "boot" { // the run began again
			clear(c.verdicts)
			clear(cannot)
			c.played = nil
		}
		if _, kernel, ok := strings.Cut(e.Package, " on "); ok {
			c.kernel = kernel
		}
		var p played
		if n, _ := fmt.Sscanf(e.Output, "model: %d operations (%d without an error) in %d histories, %d seconds",
			&p.operations, &p.succeeded, &p.histories, &p.seconds); n == 4 {
			c.played = append(c.played, p)
		}
		if e.Test == "" {
			continue
		}
		switch e.Action {
		case "output":
			cannot[e.Test] = cannot[e.Test] || strings.Contains(e.Output, notHere)
		case "run":
			c.verdicts[e.Test] = wrong // until it ends
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
	return c
}

// ways is the test whose subtests are the ways to change a layer.
const ways = "TestOneWay/"

func document(columns []*column) string {
	var b strings.Builder
	b.WriteString(preface)
	b.WriteString("\n| column | kernel | file system | passed | not possible there | failed |\n|---|---|---|---|---|---|\n")
	for _, c := range columns {
		counts := map[string]int{}
		for test, verdict := range c.verdicts {
			if !c.parent(test) {
				counts[verdict]++
			}
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %d | %d | %d |\n", c.name, c.kernel, c.fileSystem(),
			counts[exact], counts[impossible], counts[wrong])
	}
	b.WriteString("\n## Ways to change a layer\n\n")
	table(&b, columns, func(test string) (string, bool) { return strings.CutPrefix(test, ways) })
	b.WriteString("\n## Everything else\n\n")
	table(&b, columns, func(test string) (string, bool) {
		return test, !strings.HasPrefix(test, ways) && !strings.Contains(test, "/")
	})
	histories(&b, columns)
	b.WriteString("\n" + limits)
	return b.String()
}

// histories writes what the model checker's runs have come to.
func histories(b *strings.Builder, columns []*column) {
	b.WriteString("\n## Random histories\n\nWhat the model checker played: random operations of three processes, one after the other and at once,\n" +
		"on overlays mounted in several ways; the books are held against the disk after each history. Some\n" +
		"operations are meant to fail.\n\n" +
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
		if verdict != exact {
			all = verdict
		}
		row(c.kernel, c.fileSystem(), own, verdict)
	}
	row("**all**", "", sum, all)
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
		fmt.Fprintf(b, " %s |", strings.Replace(c.name, "-", " ", 1))
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(columns)) + "\n")
	for _, name := range slices.Sorted(maps.Keys(rows)) {
		fmt.Fprintf(b, "| %s |", name)
		for _, c := range columns {
			fmt.Fprintf(b, " %s |", cmp.Or(c.verdicts[rows[name]], missing))
		}
		b.WriteString("\n")
	}
}
