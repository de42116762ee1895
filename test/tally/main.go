// Command tally reads the output of `go test -json` (or of test2json), shows what matters of it
// and counts.
//
//	go test -json ./... | tally -save bin/unit    show one run; keep bin/unit.json and .counts
//	tally -total bin/unit bin/vm                  "N passed, N failed" of all of them, and what failed
//
// Tests are counted without their subtests. What should have been tested and was not counts as
// failed: a package that ends badly without a failed test, a test that never ends, a run without
// any test, a run that left no counts. It exits with 1 if anything failed.
package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
)

func main() {
	var o options
	flag.BoolVar(&o.verbose, "v", false, "name each test as it ends")
	flag.BoolVar(&o.strict, "strict", false, "count a package of which no test ran as failed")
	save := flag.String("save", "", "keep the events and the counts in files of this `name`")
	total := flag.Bool("total", false, "add up the saved runs that are named as arguments")
	flag.Parse()

	var c counts
	var err error
	if *total {
		c, err = addUp(os.Stdout, flag.Args())
	} else {
		c, err = follow(os.Stdin, os.Stdout, *save, o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "tally:", err)
	}
	if err != nil || c.failed > 0 {
		os.Exit(1)
	}
}

// follow shows one run while it goes on.
func follow(in io.Reader, out io.Writer, save string, o options) (counts, error) {
	if save != "" {
		// Should this run not come to its end, an earlier one's counts must not stand for it.
		if err := os.Remove(save + ".counts"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return counts{}, err
		}
		f, err := os.Create(save + ".json")
		if err != nil {
			return counts{}, err
		}
		defer f.Close()
		in = io.TeeReader(in, f)
	}
	r := newRun(out, o)
	if err := r.read(in); err != nil {
		return counts{}, err
	}
	fmt.Fprintf(out, "%s\n", r.counts)
	if save == "" {
		return r.counts, nil
	}
	if err := os.WriteFile(save+".failures", []byte(strings.Join(r.failures, "")), 0o644); err != nil {
		return r.counts, err
	}
	return r.counts, os.WriteFile(save+".counts", []byte(r.counts.String()+"\n"), 0o644)
}

// addUp prints the sum of saved runs.
func addUp(out io.Writer, names []string) (counts, error) {
	var sum counts
	for _, name := range names {
		text, err := os.ReadFile(name + ".counts")
		if errors.Is(err, fs.ErrNotExist) {
			fmt.Fprintf(out, "FAIL  %s did not come to its end\n", name)
			sum.failed++
			continue
		}
		if err != nil {
			return counts{}, err
		}
		var c counts
		if _, err := fmt.Sscanf(string(text), countsFormat, &c.passed, &c.failed, &c.skipped); err != nil {
			return counts{}, fmt.Errorf("reading %s.counts: %w", name, err)
		}
		sum.add(c)
		failures, err := os.ReadFile(name + ".failures")
		if err != nil {
			return counts{}, err
		}
		out.Write(failures)
	}
	if sum.skipped > 0 {
		fmt.Fprintf(out, "%d skipped, see above\n", sum.skipped)
	}
	fmt.Fprintf(out, "%d passed, %d failed\n", sum.passed, sum.failed)
	return sum, nil
}

type counts struct{ passed, failed, skipped int }

const countsFormat = "%d passed, %d failed, %d skipped"

func (c counts) String() string {
	return fmt.Sprintf(countsFormat, c.passed, c.failed, c.skipped)
}

func (c *counts) add(o counts) {
	c.passed += o.passed
	c.failed += o.failed
	c.skipped += o.skipped
}

// ran is how many tests came to a verdict.
func (c counts) ran() int { return c.passed + c.failed }

func (r *run) read(in io.Reader) error {
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			r.line(line)
		}
		if err == io.EOF {
			r.end()
			return nil
		}
		if err != nil {
			return err
		}
	}
}
