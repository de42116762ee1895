package aggregate

import (
	"testing"

	"github.com/layertrace/layertrace/internal/record"
	"github.com/layertrace/layertrace/tracer/event"
)

func TestFilters(t *testing.T) {
	for _, c := range []struct {
		include, exclude []string
		keeps, drops     []string
	}{
		{nil, nil, []string{"/a"}, nil},
		{[]string{"/var/log"}, nil, []string{"/var/log", "/var/log/a/b"}, []string{"/var", "/var/logs", "/x/var/log"}},
		{[]string{"*.log"}, nil, []string{"/x.log", "/a/b.log", "/a.log/in"}, []string{"/x.logs"}},
		{[]string{"/var/**"}, []string{"/var/cache/"}, []string{"/var/a", "/var"}, []string{"/var/cache", "/var/cache/x", "/b"}},
		{nil, []string{"**/*.{tmp,bak}"}, []string{"/a.c"}, []string{"/a.tmp", "/d/b.bak"}},
		{[]string{"/"}, nil, []string{"/", "/a", "/a/b"}, nil},
		{nil, []string{"/"}, nil, []string{"/", "/a", "/a/b"}},
	} {
		f, err := newFilter(c.include, c.exclude)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range c.keeps {
			if !f.keeps(filePath{text: p, complete: true}) {
				t.Errorf("include %q exclude %q drops %s", c.include, c.exclude, p)
			}
		}
		for _, p := range c.drops {
			if f.keeps(filePath{text: p, complete: true}) {
				t.Errorf("include %q exclude %q keeps %s", c.include, c.exclude, p)
			}
		}
	}
	for _, bad := range []string{"[", ""} {
		if _, err := New(Config{Actors: host{}, Include: []string{bad}}); err == nil {
			t.Errorf("pattern %q was accepted", bad)
		}
	}
}

func TestFilteredGrowthIsSummed(t *testing.T) {
	a := newTest(t, func(c *Config) { c.Exclude = []string{"/tmp"}; c.MinGrowth = 10 })
	seedFile(a, old(11), root, "tmp", 0, 0)
	seedFile(a, old(12), root, "big", 0, 0)
	seedFile(a, old(13), root, "small", 0, 0)
	a.SeedDone(1)
	a.Flush(at(1))
	a.Apply(&event.Batch{Deltas: []event.Delta{
		delta(old(11), 5, 100, 1, 0), delta(old(12), 5, 10, 2, 0), delta(old(13), 5, 9, 4, 0),
	}})
	got := a.Flush(at(2))
	expect(t, "filtered", got, `/5 "/big" added 10/2 grew 10/2 write`, `layer 119/4103 base 0/4096 grew 119/7 files 3`)
	if l := got[1].(*record.Layer); l.FilteredSizeGrowth != 109 || l.FilteredDiskGrowth != 5 {
		t.Errorf("filtered %d/%d, want 109/5", l.FilteredSizeGrowth, l.FilteredDiskGrowth)
	}
}
