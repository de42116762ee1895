//go:build linux

package main

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// results are what all rounds took, by work and mode.
type results struct {
	list   []work
	modes  []string
	took   []map[string][]float64 // by work: by mode, in the order of rounds
	failed map[string]error       // modes that did not work here
}

func newResults(list []work, modes []mode) *results {
	r := &results{list: list, failed: map[string]error{}}
	for _, m := range modes {
		r.modes = append(r.modes, m.name)
	}
	for range list {
		r.took = append(r.took, map[string][]float64{})
	}
	return r
}

func (r *results) add(work int, mode string, took float64) {
	r.took[work][mode] = append(r.took[work][mode], took)
}

// ratios divides what each round took in one mode by what it took in another.
func ratios(these, those []float64) []float64 {
	all := make([]float64, min(len(these), len(those)))
	for i := range all {
		all[i] = these[i] / those[i]
	}
	return all
}

// median is 0 of nothing.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	half := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[half]
	}
	return (sorted[half-1] + sorted[half]) / 2
}

// spread writes a median with the least and the greatest of the values.
func spread(values []float64) string {
	if len(values) == 0 {
		return "-"
	}
	return fmt.Sprintf("%.3f (%.2f–%.2f)", median(values), slices.Min(values), slices.Max(values))
}

// grouped separates thousands.
func grouped(value float64) string {
	digits := strconv.FormatFloat(value, 'f', 0, 64)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

func (r *results) print(w io.Writer) {
	fmt.Fprintf(w, "\n| work | untraced, %s |", unit())
	for _, name := range r.modes[1:] {
		fmt.Fprintf(w, " %s |", name)
		if name == layertrace {
			fmt.Fprintf(w, " layertrace ÷ empty |")
		}
	}
	fmt.Fprintf(w, "\n|---|%s\n", strings.Repeat("--:|", len(r.modes)+1))
	for i := range r.list {
		took := r.took[i]
		fmt.Fprintf(w, "| %s | %s |", r.list[i].name, grouped(median(took[untraced])))
		for _, name := range r.modes[1:] {
			fmt.Fprintf(w, " %s |", spread(ratios(took[name], took[untraced])))
			if name == layertrace {
				fmt.Fprintf(w, " %s |", spread(ratios(took[name], took[empty])))
			}
		}
		fmt.Fprintln(w)
	}
	for _, name := range r.modes {
		if err := r.failed[name]; err != nil {
			fmt.Fprintf(w, "\n%v\n", err)
		}
	}
}
