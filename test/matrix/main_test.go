package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A run that booted twice, with a way that passed, one that failed and one that the
// kernel cannot do.
const events = `{"Action":"boot"}
{"Action":"run","Package":"p on 6.1","Test":"TestGone"}
{"Action":"boot"}
not an event
{"Action":"run","Package":"p on 6.1","Test":"TestOneWay"}
{"Action":"run","Package":"p on 6.1","Test":"TestOneWay/write"}
{"Action":"pass","Package":"p on 6.1","Test":"TestOneWay/write"}
{"Action":"run","Package":"p on 6.1","Test":"TestOneWay/clone"}
{"Action":"output","Package":"p on 6.1","Test":"TestOneWay/clone","Output":"    x.go:1: n/a: EOPNOTSUPP\n"}
{"Action":"pass","Package":"p on 6.1","Test":"TestOneWay/clone"}
{"Action":"run","Package":"p on 6.1","Test":"TestOneWay/link"}
{"Action":"fail","Package":"p on 6.1","Test":"TestOneWay/link"}
{"Action":"fail","Package":"p on 6.1","Test":"TestOneWay"}
{"Action":"run","Package":"p on 6.1","Test":"TestSkipped"}
{"Action":"output","Package":"p on 6.1","Test":"TestSkipped","Output":"    x.go:1: n/a: no BTF\n"}
{"Action":"skip","Package":"p on 6.1","Test":"TestSkipped"}
{"Action":"run","Package":"p on 6.1","Test":"TestPodman"}
{"Action":"skip","Package":"p on 6.1","Test":"TestPodman"}
{"Action":"fail","Package":"p on 6.1"}
`

func TestDocument(t *testing.T) {
	first, second := read([]byte(events)), read([]byte(`{"Action":"run","Package":"p on 7.3","Test":"TestOneWay/only"}
{"Action":"pass","Package":"p on 7.3","Test":"TestOneWay/only"}
{"Action":"run","Package":"m on 7.3","Test":"TestModel"}
{"Action":"output","Package":"m on 7.3","Test":"TestModel","Output":"model: 200 operations (150 without an error) in 10 histories, 90 seconds, kernel 7.3, xfs\n"}
{"Action":"pass","Package":"m on 7.3","Test":"TestModel"}
`))
	first.name, second.name = "6.1-ext4", "newest-xfs"
	got := document([]*column{first, second})
	for _, want := range []string{
		"| 6.1-ext4 | 6.1 | ext4 | 1 | 0 | 0 | 2 | 1 |\n",
		"| newest-xfs | 7.3 | xfs | 2 | 0 | 0 | 0 | 0 |\n",
		"| | 6.1 ext4 | newest xfs |\n",
		"| clone | · | ? |\n| link | **≠** | ? |\n| only | ? | = |\n| write | = | ? |\n",
		"\nPrograms and tests of a commit that was not kept.\n",
		"| TestPodman | ? | ? |\n| TestSkipped | · | ? |\n",
		"| 6.1 | ext4 | 0 | 0 | 0 | 0.0 | ? |\n| 7.3 | xfs | 200 | 150 | 10 | 1.5 | = |\n| **all** |  | 200 | 150 | 10 | 1.5 | ? |\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("missing %q in\n%s", want, got)
		}
	}
	if strings.Contains(got, "TestGone") {
		t.Error("a test of the boot before is in the document")
	}
}

// What a test says of the disk holds for its subtests, and for no others.
func TestSizeOnly(t *testing.T) {
	c := read([]byte(`{"Action":"output","Package":"p on 5.10","Test":"TestOneWay","Output":"    x.go:1: size only: no BTF\n"}
{"Action":"pass","Package":"p on 5.10","Test":"TestOneWay/write"}
{"Action":"output","Package":"p on 5.10","Test":"TestOneWay/clone","Output":"    x.go:1: n/a: EOPNOTSUPP\n"}
{"Action":"pass","Package":"p on 5.10","Test":"TestOneWay/clone"}
{"Action":"fail","Package":"p on 5.10","Test":"TestOneWay/link"}
{"Action":"fail","Package":"p on 5.10","Test":"TestOneWay"}
{"Action":"output","Package":"p on 5.10","Test":"TestModel","Output":"    x.go:1: size only: no BTF\n"}
{"Action":"pass","Package":"p on 5.10","Test":"TestModel"}
{"Action":"pass","Package":"p on 5.10","Test":"TestElse/one"}
{"Action":"pass","Package":"p on 5.10","Test":"TestElse"}
`))
	c.name = "5.10-xfs"
	got := document([]*column{c})
	for _, want := range []string{
		"| 5.10-xfs | 5.10 | xfs | 1 | 2 | 0 | 1 | 1 |\n",
		"| clone | · |\n| link | **≠** |\n| write | ≈ |\n",
		"| TestElse | = |\n| `TestElse/one` | = |\n| TestModel | ≈ |\n| TestOneWay | **≠** |\n",
		"| **all** |  | 0 | 0 | 0 | 0.0 | ≈ |\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("missing %q in\n%s", want, got)
		}
	}
}

// What passed by itself is in doubt where the sum of all is not right.
func TestTotals(t *testing.T) {
	const ways = `{"Action":"pass","Package":"p on 6.1","Test":"TestOneWay/write"}
{"Action":"pass","Package":"p on 6.1","Test":"TestOneWay/races/two"}
{"Action":"pass","Package":"p on 6.1","Test":"TestOneWay/races"}
`
	const link, sums, all = `{"Action":"fail","Package":"p on 6.1","Test":"TestOneWay/link"}
`, `{"Action":"fail","Package":"p on 6.1","Test":"TestOneWay/totals"}
`, `{"Action":"fail","Package":"p on 6.1","Test":"TestOneWay"}
`
	for _, c := range []struct {
		name, events string
		want         []string
	}{
		{"a way", ways + link + all, []string{"| link | **≠** |\n", "| `races/two` | = |\n| write | = |\n", "| x | 6.1 |  | 2 | 0 | 0 | 0 | 1 |"}},
		{"the totals", ways + sums + all, []string{"| races | ! |\n| `races/two` | ! |\n| totals | **≠** |\n| write | ! |\n", "| x | 6.1 |  | 0 | 0 | 2 | 0 | 1 |"}},
		{"both", ways + link + sums + all, []string{"| link | **≠** |\n", "| write | ! |\n", "| x | 6.1 |  | 0 | 0 | 2 | 0 | 2 |"}},
		{"something outside of all subtests", ways + all, []string{"| write | ! |\n", "| x | 6.1 |  | 0 | 0 | 2 | 0 | 1 |"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := read([]byte(c.events))
			x.name = "x"
			got := document([]*column{x})
			for _, want := range c.want {
				if !strings.Contains(got, want) {
					t.Errorf("missing %q in\n%s", want, got)
				}
			}
		})
	}
}

// Subtests have rows, but for those that repeat one another; they are not possible where
// the whole test is not.
func TestSubtests(t *testing.T) {
	first, second := read([]byte(`{"Action":"pass","Package":"p on 5.10","Test":"TestNames/\"a|b\""}
{"Action":"pass","Package":"p on 5.10","Test":"TestNames"}
{"Action":"output","Package":"p on 5.10","Test":"TestMountOptions/userxattr","Output":"    x.go:1: n/a: not there\n"}
{"Action":"pass","Package":"p on 5.10","Test":"TestMountOptions/userxattr"}
{"Action":"pass","Package":"p on 5.10","Test":"TestMountOptions"}
{"Action":"output","Package":"p on 5.10","Test":"TestPlain","Output":"    x.go:1: n/a: no BTF\n"}
{"Action":"skip","Package":"p on 5.10","Test":"TestPlain"}
`)), read([]byte(`{"Action":"pass","Package":"p on 6.1","Test":"TestMountOptions/userxattr"}
{"Action":"pass","Package":"p on 6.1","Test":"TestMountOptions"}
{"Action":"pass","Package":"p on 6.1","Test":"TestPlain/one"}
{"Action":"pass","Package":"p on 6.1","Test":"TestPlain"}
{"Action":"pass","Package":"p on 6.1","Test":"TestBusyStart/round_0"}
{"Action":"pass","Package":"p on 6.1","Test":"TestBusyStart"}
`))
	got := document([]*column{first, second})
	for _, want := range []string{
		"| TestBusyStart | ? | = |\n",
		"| TestMountOptions | = | = |\n| `TestMountOptions/userxattr` | · | = |\n",
		"| TestNames | = | ? |\n| `TestNames/\"a\\|b\"` | = | ? |\n",
		"| `TestPlain/one` | · | = |\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("missing %q in\n%s", want, got)
		}
	}
	if strings.Contains(got, "round_0") {
		t.Error("a repetition has a row")
	}
}

// Without each hook something has to be wrong somewhere, unless it is about a race.
func TestHooksAreProven(t *testing.T) {
	const said, passed = `{"Action":"output","Package":"p on 6.1","Test":"TestHooks/one","Output":"    x.go:1: %\n"}
`, `{"Action":"pass","Package":"p on 6.1","Test":"TestHooks/one"}
`
	saying := func(text string) string { return strings.Replace(said, "%", text, 1) + passed }
	const failed = `{"Action":"fail","Package":"p on 6.1","Test":"TestHooks/one"}
`
	const other = `{"Action":"pass","Package":"p on 6.1","Test":"TestPlainHooks/two"}
`
	for _, c := range []struct {
		name, first, second string
		proven              bool
	}{
		{"in both", passed, passed, true},
		{"in one", saying("n/a: not on this kernel"), passed, true},
		{"in one, and the other has none", "", passed, true},
		{"in none", saying("n/a: not on this kernel"), saying("n/a: not on this kernel"), false},
		{"in size only", saying("size only: no BTF"), saying("n/a: not on this kernel"), false},
		{"a race", saying("n/a: not on this kernel"), saying("n/a: each time, the same one was faster"), true},
		{"failed", failed, "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			columns := []*column{read([]byte(c.first + other)), read([]byte(c.second + other))}
			err := proven(columns)
			if (err == nil) != c.proven {
				t.Errorf("error %v", err)
			}
			if err != nil && !strings.HasSuffix(err.Error(), ": one") {
				t.Errorf("%v, want one, and not two", err)
			}
			if got := document(columns); !strings.Contains(got, "| two | = | = |\n") || strings.Contains(got, "Hooks/") {
				t.Errorf("the hooks have no rows of their own in\n%s", got)
			}
		})
	}
}

// Each of these runs is to be told from one that came to its end.
func TestIncomplete(t *testing.T) {
	const (
		began  = `{"Action":"start","Package":"p on 6.1"}` + "\n"
		passed = `{"Action":"run","Package":"p on 6.1","Test":"TestA"}
{"Action":"pass","Package":"p on 6.1","Test":"TestA"}
`
		failed  = `{"Action":"run","Package":"p on 6.1","Test":"TestB"}` + "\n" + `{"Action":"fail","Package":"p on 6.1","Test":"TestB"}` + "\n"
		hung    = `{"Action":"run","Package":"p on 6.1","Test":"TestC"}` + "\n"
		good    = `{"Action":"pass","Package":"p on 6.1"}` + "\n"
		bad     = `{"Action":"fail","Package":"p on 6.1"}` + "\n"
		another = `{"Action":"pass","Package":"q on 6.1"}` + "\n"
	)
	whole := began + passed + good + another
	for _, c := range []struct {
		name, events string
		counts       bool
		why          string // in the complaint; empty for none
	}{
		{"complete", whole, true, ""},
		{"a test failed", began + passed + failed + bad + another, true, ""},
		{"absent", "", false, "x-ext4: was not run"},
		{"no counts", whole, false, "x-ext4: left no counts"},
		{"broken off in a package", began + passed, true, "x-ext4: p did not come to its end"},
		{"broken off between packages", began + passed + good, true, "x-ext4: q was not run"},
		{"failed by itself", began + passed + bad + another, true, "x-ext4: p did not come to its end"},
		{"failed with a test under way", began + passed + failed + hung + bad + another, true, "x-ext4: p did not come to its end"},
		{"began again", whole + `{"Action":"boot"}` + "\n" + began, true, "x-ext4: p did not come to its end"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			save := func(name, text string) {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			save("y-ext4.json", whole)
			save("y-ext4.counts", "")
			save("y-ext4.commit", "v1-2-gabc\n")
			if c.events != "" {
				save("x-ext4.json", c.events)
				save("x-ext4.commit", "v1-2-gabc-dirty\n")
			}
			if c.counts {
				save("x-ext4.counts", "")
			}
			var out strings.Builder
			err := run([]string{filepath.Join(dir, "x-ext4.json"), filepath.Join(dir, "y-ext4.json")}, &out)
			want := []string{
				"\n- programs and tests of commit `v1-2-gabc`: y ext4\n- programs and tests of commit `v1-2-gabc` with changes that were not committed: x ext4\n",
				"| TestA | = | = |\n",
			}
			if c.why != "" {
				want = []string{"\nPrograms and tests of commit `v1-2-gabc`.\n", "| x-ext4 |", " | ext4 | ? | ? | ? | ? | ? |\n", "| TestA | ? | = |\n"}
				if err == nil || !strings.Contains(err.Error(), c.why) || strings.Contains(err.Error(), "y-ext4") {
					t.Errorf("error %v, want %q in it", err, c.why)
				}
			} else if err != nil {
				t.Error(err)
			}
			for _, text := range want {
				if !strings.Contains(out.String(), text) {
					t.Errorf("missing %q in\n%s", text, out.String())
				}
			}
		})
	}
}
