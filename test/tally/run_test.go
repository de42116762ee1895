package main

import (
	"io"
	"strings"
	"testing"
)

func TestCounts(t *testing.T) {
	start := `{"Action":"start","Package":"p"}` + "\n"
	tests := []struct {
		name, input string
		want        counts
		says        string
	}{
		{"nothing at all", "", counts{failed: 1}, "no test was run"},
		{"a message only", "run: the VM ended\n", counts{failed: 1}, "run: the VM ended"},
		{"subtests count with their test", start +
			`{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"pass","Package":"p","Test":"TestA/one"}
{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"pass","Package":"p"}`, counts{passed: 1}, "ok    p"},
		{"a failed test shows its output", start +
			`{"Action":"output","Package":"p","Test":"TestA/one","Output":"want 1\n"}
{"Action":"fail","Package":"p","Test":"TestA/one"}
{"Action":"fail","Package":"p","Test":"TestA","Elapsed":1}
{"Action":"fail","Package":"p"}`, counts{failed: 1}, "want 1"},
		{"a skip says why", start +
			`{"Action":"output","Package":"p","Test":"TestA","Output":"    a_test.go:1: needs 6.6\n"}
{"Action":"output","Package":"p","Test":"TestA","Output":"--- SKIP: TestA (0.00s)\n"}
{"Action":"skip","Package":"p","Test":"TestA"}
{"Action":"pass","Package":"p","Test":"TestB"}
{"Action":"pass","Package":"p"}`, counts{passed: 1, skipped: 1}, "skip  TestA: a_test.go:1: needs 6.6"},
		{"a package of which no test ran", start +
			`{"Action":"output","Package":"p","Output":"p: needs the VM\n"}
{"Action":"output","Package":"p","Output":"PASS\n"}
{"Action":"pass","Package":"p"}`, counts{failed: 1}, "none  p: p: needs the VM"},
		{"a package that fails by itself", start +
			`{"Action":"output","Package":"p","Output":"TestMain: no root\n"}
{"Action":"fail","Package":"p"}`, counts{failed: 1}, "TestMain: no root"},
		{"a run that breaks off", start +
			`{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"run","Package":"p","Test":"TestB"}`, counts{passed: 1, failed: 1}, "TestB did not end"},
		{"a run that breaks off between tests", start +
			`{"Action":"pass","Package":"p","Test":"TestA"}`, counts{passed: 1, failed: 1}, "p did not end"},
		{"a panic ends the tests after it", start +
			`{"Action":"fail","Package":"p","Test":"TestA"}
{"Action":"run","Package":"p","Test":"TestB"}
{"Action":"fail","Package":"p"}`, counts{failed: 2}, "TestB did not end"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var out strings.Builder
			r := newRun(&out, options{strict: true})
			if err := r.read(strings.NewReader(test.input)); err != nil {
				t.Fatal(err)
			}
			if r.counts != test.want {
				t.Errorf("counted %s, want %s", r.counts, test.want)
			}
			if !strings.Contains(out.String(), test.says) {
				t.Errorf("missing %q in:\n%s", test.says, out.String())
			}
		})
	}
}

func TestBootVoidsWhatWasCounted(t *testing.T) {
	const passed = `{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"pass","Package":"p","Test":"TestA"}
`
	r := newRun(io.Discard, options{})
	text := bootEvent + "\n" + passed + `{"Action":"run","Package":"p","Test":"TestB"}` + "\n" +
		bootEvent + "\n" + passed + `{"Action":"pass","Package":"p"}` + "\n"
	if err := r.read(strings.NewReader(text)); err != nil {
		t.Fatal(err)
	}
	if r.counts != (counts{passed: 1}) {
		t.Errorf("%s, want 1 passed only", r.counts)
	}
}

// TestGist: what comes after the first error does not hide it.
func TestGist(t *testing.T) {
	var out strings.Builder
	r := newRun(&out, options{})
	const text = `{"Action":"output","Package":"p","Test":"TestA","Output":"    a_test.go:1: it begins\n"}
{"Action":"output","Package":"p","Test":"TestA","Output":"    a_test.go:2: differs by 4096\n"}
{"Action":"output","Package":"p","Test":"TestA","Output":"        more\n        of\n        the\n        difference\n"}
{"Action":"output","Package":"p","Test":"TestA","Output":"    a_test.go:3: the last record\n"}
{"Action":"fail","Package":"p","Test":"TestA"}
`
	if err := r.read(strings.NewReader(text)); err != nil {
		t.Fatal(err)
	}
	const want = "FAIL  TestA in p:\n" +
		"      a_test.go:1: it begins\n" +
		"      a_test.go:2: differs by 4096\n      more\n      of\n      the\n" +
		"      a_test.go:3: the last record\n"
	if len(r.failures) != 1 || r.failures[0] != want {
		t.Errorf("%q, want %q", r.failures, want)
	}
}
