//go:build linux

package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/layertrace/layertrace/internal/record"
)

// TestNames: whatever bytes a name is made of, and however its directories are
// moved about meanwhile, the stream carries it without loss.
func TestNames(t *testing.T) {
	b := newBox(t)
	b.before = walkLayer(t, b.upper)
	s := watch(t, b.name)
	long := strings.Repeat("n", 255)
	for i, name := range []string{
		"with spaces  two", " leading and trailing ", "new\nline", "tab\there", "carriage\rreturn", "\x01\x1b[31mred\x1b[0m\x7f",
		`quote"and'and\backslash`, "{\"type\":\"growth\"}", "ünïcödé-日本語-🙂", "right\u202eleft\u200bzero", "%s%n", "*?[a]", "-rf", "a:b,c=d",
		"invalid-\xff\xfe", "cut-\xe6\x97", "\x80", "replacement-\ufffd", "not-utf8-\xc0\xaf", "…surrogate-\xed\xa0\x80",
		long, strings.Repeat("\xff", 255), strings.Repeat("日", 85),
	} {
		path := "/w/" + name
		size := int64(1000 + i)
		t.Run(fmt.Sprintf("%.40q", name), func(t *testing.T) {
			defer s.in(t)()
			proc := fmt.Sprintf("name-%d", i)
			b.run(t, proc, "write", "path="+path, fmt.Sprintf("size=%d", size))
			s.until(seenLimit, "the file under its name", func(v *view) error {
				if got := v.byIn(b, proc, path); got.size != size {
					return fmt.Errorf("size %d, want %d:\n%s", got.size, size, v.linesOf(func(g *growth) bool { return b.of(g) && g.process() == proc }))
				}
				return grown(v, b, proc, size)
			})
			checkText(t, s, path)
		})
	}
	// A process's name may hold any byte as well.
	for i, name := range []string{"two words", "quo\"te", "pr\xffc", "日本語日本", "new\nline"} {
		path := fmt.Sprintf("/w/by-%d", i)
		t.Run(fmt.Sprintf("process %q", name), func(t *testing.T) {
			defer s.in(t)()
			b.run(t, name, "write", "path="+path, "size=99")
			s.until(seenLimit, "the process under its name", func(v *view) error {
				if got := v.byIn(b, name, path); got.size != 99 {
					return fmt.Errorf("size %d, want 99:\n%s", got.size, v.linesOf(func(g *growth) bool { return b.of(g) && g.path() == path }))
				}
				return nil
			})
		})
	}
	t.Run("deep tree", func(t *testing.T) {
		defer s.in(t)()
		const depth = 200
		b.run(t, "deep", "mkdir", "path=/w/deep", "then", "deepdirs", "path=/w/deep", "name=level", fmt.Sprintf("depth=%d", depth), "size=4242")
		path := "/w/deep" + strings.Repeat("/level", depth) + "/deepest"
		s.until(seenLimit, "the deepest file", func(v *view) error { return grownAt(v, b, "deep", path, 4242) })
	})
	t.Run("renamed ancestors", func(t *testing.T) {
		defer s.in(t)()
		renamedAncestors(t, s, b)
	})
	t.Run("renamed file", func(t *testing.T) {
		defer s.in(t)()
		// A log that is rotated while its writer keeps it open.
		p := b.spawn(t, "rotated", fields("keep path=/w/log then keptwrite path=/w/log size=1000 then wait then keptwrite path=/w/log size=500 then release path=/w/log")...)
		p.until(t, "waiting")
		s.until(seenLimit, "the log", func(v *view) error { return grownAt(v, b, "rotated", "/w/log", 1000) })
		b.run(t, "rotate", fields("rename from=/w/log path=/w/log.1 then create path=/w/log")...)
		p.resume(t)
		p.finish(t)
		s.until(seenLimit, "the log under its new name", func(v *view) error { return grownAt(v, b, "rotated", "/w/log.1", 500) })
	})
	t.Run("totals", func(t *testing.T) {
		defer s.in(t)()
		s.quiet(b)
	})
}

// TestLongPaths: paths that no system call takes in one piece, there before
// layertrace starts and made while it runs. Docker itself cannot measure such a
// layer. Of such a path the stream may show its end only, and says so by a loss
// of no bytes; the numbers are exact all the same.
func TestLongPaths(t *testing.T) {
	b := newBox(t)
	b.longPaths = true
	before := "/w/prep" + strings.Repeat("/"+strings.Repeat("P", 250), 20) + "/deepest"
	during := "/w/new" + strings.Repeat("/"+strings.Repeat("N", 200), 30) + "/deepest"
	b.run(t, "prep", "mkdir", "path=/w/prep", "then", "deepdirs", "path=/w/prep", "name="+strings.Repeat("P", 250), "depth=20", "size=7777")
	b.before = walkLayer(t, b.upper)
	if b.before.size != 7777 {
		t.Fatalf("this test is wrong: the layer has size %d, want 7777", b.before.size)
	}
	s := watch(t, b.name)
	b.run(t, "maker", "mkdir", "path=/w/new", "then", "deepdirs", "path=/w/new", "name="+strings.Repeat("N", 200), "depth=30", "size=4242")
	b.run(t, "remover", "removeall", "path=/w/prep")
	for _, w := range []struct {
		name, path string
		size       int64
	}{{"maker", during, 4242}, {"remover", before, -7777}} {
		s.until(seenLimit, "the deepest file of "+w.name, func(v *view) error {
			deepest := func(g *growth) bool {
				// At least the last thousand bytes of it.
				return b.of(g) && g.process() == w.name && len(g.path()) > 1000 && strings.HasSuffix(w.path, g.path())
			}
			if got := v.sum(deepest); got.size != w.size {
				return fmt.Errorf("it grew by %d, want %d; %s grew the layer by %d", got.size, w.size, w.name, v.by(b, w.name).size)
			}
			return grown(v, b, w.name, w.size)
		})
	}
	// The longest path that a system call takes is shown whole.
	const levels, longest = 204, 4095
	b.run(t, "prep", "mkdir", "path=/w/edge", "then", "deepdirs", "path=/w/edge", "name="+strings.Repeat("E", 19), fmt.Sprintf("depth=%d", levels), "size=1000")
	edge := "/w/edge" + strings.Repeat("/"+strings.Repeat("E", 19), levels) + "/deepest"
	if len(edge) != longest {
		t.Fatalf("this test is wrong: the path has %d bytes", len(edge))
	}
	b.run(t, "edger", "append", "path="+edge, "size=10", "then", "unlink", "path="+edge)
	s.until(seenLimit, "the file at the end of the longest path", func(v *view) error {
		if err := grownAt(v, b, "prep", edge, 1000); err != nil {
			return err
		}
		return grownAt(v, b, "edger", edge, -1000)
	})
	s.quiet(b)
}

// checkText requires of the records about a path that their readable form is
// what the contract says.
func checkText(t *testing.T, s *session, path string) {
	t.Helper()
	text, b64 := "", ""
	for _, r := range path { // U+FFFD for every byte that is not UTF-8
		text += string(r)
	}
	_, b64 = record.Text(path)
	for i := range s.growth {
		if g := &s.growth[i]; g.path() == path && (g.File.Path != text || g.File.PathB64 != b64) {
			t.Errorf("path %q with base64 %q, want %q with %q:\n%s", g.File.Path, g.File.PathB64, text, b64, g.line)
		}
	}
}

func grownAt(v *view, b *box, name, path string, size int64) error {
	if got := v.byIn(b, name, path); got.size != size {
		return fmt.Errorf("%s grew %s by %d, want %d:\n%s", name, path, got.size, size, v.linesOf(func(g *growth) bool { return b.of(g) && g.process() == name }))
	}
	return nil
}

// renamedAncestors: a file is written all the time while directories above it
// are renamed, and new files are made below the new names.
func renamedAncestors(t *testing.T, s *session, b *box) {
	b.run(t, "prep", fields("mkdir path=/w/a/b/c parents=1 then write path=/w/a/b/c/quiet size=10")...)
	w := b.spawn(t, "steady", fields("busy path=/w/a/b/c/file kind=append chunk=100 limit=100000000")...)
	w.until(t, "busy")
	s.until(seenLimit, "the file under its first name", func(v *view) error {
		if v.byIn(b, "steady", "/w/a/b/c/file").size == 0 {
			return fmt.Errorf("nothing yet")
		}
		return nil
	})
	b.run(t, "mover", fields("rename from=/w/a/b path=/w/a/x then rename from=/w/a path=/w/z then write path=/w/z/x/c/new size=321")...)
	s.until(seenLimit, "the files under their new names", func(v *view) error {
		if err := grownAt(v, b, "mover", "/w/z/x/c/new", 321); err != nil {
			return err
		}
		if v.byIn(b, "steady", "/w/z/x/c/file").size == 0 {
			return fmt.Errorf("nothing is charged to the new path:\n%s", tail(v.linesOf(func(g *growth) bool { return b.of(g) && g.process() == "steady" }), 5))
		}
		return nil
	})
	b.run(t, "later", fields("append path=/w/z/x/c/quiet size=5")...)
	s.until(seenLimit, "an old file under its new name", func(v *view) error { return grownAt(v, b, "later", "/w/z/x/c/quiet", 5) })
	w.resume(t)
	results := w.finish(t)
	written := results[len(results)-1].Written
	s.until(seenLimit, "all that was written meanwhile", func(v *view) error { return grown(v, b, "steady", written) })
}
