package model

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// mounts are the ways to mount an overlay that are checked. The first is what
// Docker uses.
var mounts = []struct {
	options string
	share   int // of the histories, in percent
}{
	{"index=off", 100},
	{"redirect_dir=on,index=off", 25},
	{"metacopy=on,redirect_dir=on,index=off", 25},
	{"index=on", 25},
	{"metacopy=on,redirect_dir=on,index=on", 10},
	{"volatile,index=off", 10},
	{"userxattr,index=off", 10},
}

// TestModel plays random histories and compares the tracer's books with the disk.
func TestModel(t *testing.T) {
	settings, err := readSettings(len(mounts))
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t)
	if !r.exact {
		t.Log("size only: this kernel does not let allocated bytes be read on this file system") // test/matrix shows it
	}
	began := time.Now()
	for _, mount := range mounts {
		t.Run(mount.options, func(t *testing.T) {
			if strings.HasPrefix(mount.options, "userxattr") && !r.userAttributes() {
				t.Log("n/a: this kernel has no overlay mounts with userxattr")
				return
			}
			check(t, r, settings, mount.options, settings.checks*mount.share/100)
		})
	}
	t.Logf("histories by the order of their operations: %v", r.played)
	t.Logf("operations, and how many ended without an error: %s", r.tallies())
	sum := r.total()
	fmt.Printf("model: %d operations (%d without an error) in %d histories, %.0f seconds, kernel %s, %s\n",
		sum.run, sum.succeeded, r.histories, time.Since(began).Seconds(), kernel(), r.fileSystem)
	if names := r.vain(); len(names) > 0 {
		t.Errorf("these operations never succeeded, so that nothing was checked of them: %s", strings.Join(names, ", "))
	}
}

// check plays histories on overlays that are mounted one way.
func check(t *testing.T, r *rig, settings *settings, options string, checks int) {
	before, histories := r.total(), r.histories
	var first, shortest *failure
	t.Cleanup(func() {
		sum := r.total()
		t.Logf("%d operations in %d histories on %s, options %s, kernel %s, seed %d",
			sum.run-before.run, r.histories-histories, r.fileSystem, options, kernel(), settings.used)
		if first != nil {
			t.Logf("the first history that failed:\n%s", first)
			t.Logf("the shortest history that failed:\n%s", shortest)
		}
	})
	deadline := time.Now().Add(settings.share)
	for round := 0; round == 0 || time.Now().Before(deadline); round++ {
		settings.apply(t, round, checks)
		rapid.Check(t, func(rt *rapid.T) {
			order := rapid.SampledFrom(orders).Draw(rt, "order")
			ops := drawHistory(rt)
			tries := 1
			if first != nil && order == concurrent {
				// A race is not lost each time.
				tries = 5
			}
			for range tries {
				problems, lines := r.play(t, options, order, ops)
				if len(problems) == 0 {
					continue
				}
				f := &failure{lines: lines, problems: problems}
				if first == nil {
					first = f
				}
				if shortest == nil || len(lines) <= len(shortest.lines) {
					shortest = f
				}
				// rapid takes failures for the same only if they read the same.
				rt.Fatal("the books do not agree with the disk")
			}
		})
	}
}

// failure is a history that was not booked correctly.
type failure struct{ lines, problems []string }

func (f *failure) String() string {
	return "    " + strings.Join(f.lines, "\n    ") + "\n  " + strings.Join(f.problems, "\n  ")
}

// settings are what the environment and the flags say.
type settings struct {
	checks int
	fixed  uint64        // seed; 0 for any
	used   uint64        // seed of the current round
	share  time.Duration // how long a subtest goes on
}

// readSettings reads the settings; the time is divided among so many subtests.
func readSettings(subtests int) (*settings, error) {
	s := &settings{}
	// Few long histories: setting one up takes as long as a dozen operations.
	own := map[string]string{"rapid.checks": "40", "rapid.steps": "50", "rapid.nofailfile": "true"}
	flag.Visit(func(f *flag.Flag) { delete(own, f.Name) })
	for name, value := range own {
		if err := flag.Set(name, value); err != nil {
			return nil, fmt.Errorf("setting -%s: %w", name, err)
		}
	}
	var err error
	if s.checks, err = strconv.Atoi(flag.Lookup("rapid.checks").Value.String()); err != nil {
		return nil, fmt.Errorf("reading -rapid.checks: %w", err)
	}
	seed := flag.Lookup("rapid.seed").Value.String()
	if value := os.Getenv("LAYERTRACE_MODEL_SEED"); value != "" {
		seed = value
	}
	if s.fixed, err = strconv.ParseUint(seed, 0, 64); err != nil {
		return nil, fmt.Errorf("reading the seed: %w", err)
	}
	if value := os.Getenv("LAYERTRACE_MODEL_TIME"); value != "" {
		limit, err := time.ParseDuration(value)
		if err != nil {
			return nil, fmt.Errorf("reading LAYERTRACE_MODEL_TIME: %w", err)
		}
		s.share = limit / time.Duration(subtests)
	}
	return s, nil
}

// apply sets rapid's flags for a round of checks. A fixed seed is that of the
// first round in each subtest, so that a seed that was reported can be used.
func (s *settings) apply(t *testing.T, round, checks int) {
	t.Helper()
	const far = 0x9e3779b97f4a7c15 // apart from the seeds of the round before
	s.used = s.fixed + uint64(round)*far
	if s.fixed == 0 {
		s.used = rand.Uint64()
	}
	for name, value := range map[string]string{
		"rapid.checks": strconv.Itoa(max(checks, 1)),
		"rapid.seed":   strconv.FormatUint(s.used, 10),
	} {
		if err := flag.Set(name, value); err != nil {
			t.Fatal(err)
		}
	}
}
