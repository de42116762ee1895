//go:build linux

package e2e

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/layertrace/layertrace/internal/record"
)

// way is one way to change a layer. In its command lines @ stands for the path
// /w/NAME of the way's own.
type way struct {
	name string
	prep string // done before, by a process called prep
	do   string // done by a process called w-NAME
	// size is the growth by path that the process must be charged with; no other
	// path may grow. "a|b" is a file that is renamed meanwhile.
	size map[string]int64
	// disk is the same for allocated bytes, checked where the upper file system
	// is ext4 with blocks of 4096 bytes; paths that are not named are not checked
	// here, but held against the disk at the end like every other.
	disk    map[string]int64
	written int64
	writes  int64 // 0: not checked; how often the kernel writes is its affair
	copyUp  int64 // of files
	// causes are words of which at least one must appear for the first of paths.
	causes  string
	path    string // the path that causes and origin are about; default @
	origin  string
	deleted bool
}

const mib = 1 << 20

// img is the size of an image file, as a path's growth by copying it up.
func img(name string) int64 { return int64(imageFiles[name]) }

var ways = []way{
	// Writing.
	{name: "write", do: "write path=@ size=100000 chunk=1000", size: m("@", 100_000), disk: m("@", 102_400), written: 100_000, writes: 100, causes: "write", origin: record.OriginAdded},
	{name: "pwrite", do: "pwrite path=@ size=5000 offset=3000", size: m("@", 8000), disk: m("@", 8192), written: 5000, writes: 1, causes: "write"},
	{name: "writev", do: "writev path=@ size=30000 chunk=3000", size: m("@", 30_000), disk: m("@", 32_768), written: 30_000, writes: 10, causes: "write"},
	{name: "pwritev", do: "writev kind=pwritev path=@ size=30000 chunk=3000", size: m("@", 30_000), written: 30_000, writes: 10, causes: "write"},
	{name: "pwritev2", do: "writev kind=pwritev2 path=@ size=30000 chunk=3000", size: m("@", 30_000), written: 30_000, writes: 10, causes: "write"},
	{name: "append", prep: "write path=@ size=5000", do: "append path=@ size=700 chunk=100", size: m("@", 700), disk: m("@", 0), written: 700, writes: 7, causes: "write", origin: record.OriginAdded},
	{name: "rewrite", prep: "write path=@ size=65536", do: "rewrite path=@ size=4096 count=51", size: m("@", 0), disk: m("@", 0), written: 51 * 4096, writes: 51, causes: "write"},
	{name: "overwrite", prep: "write path=@ size=10000", do: "overwrite path=@ size=300", size: m("@", -9700), disk: m("@", -8192), written: 300, writes: 1, causes: "truncate"},
	{name: "aio", do: "aio path=@ size=1048576", size: m("@", mib), disk: m("@", mib), written: mib, causes: "write"},
	{name: "aio-direct", do: "aio path=@ size=1048576 direct=1", size: m("@", mib), written: mib, causes: "write"},
	{name: "uring", do: "uring path=@ size=1048576", size: m("@", mib), disk: m("@", mib), written: mib, causes: "write"},
	{name: "uring-sqpoll", do: "uring path=@ size=262144 sqpoll=1", size: m("@", 262_144), disk: m("@", 262_144), written: 262_144, causes: "write"},
	{name: "uring-falloc", do: "uring kind=fallocate path=@ size=131072", size: m("@", 131_072), disk: m("@", 131_072), causes: "allocate"},

	// From file to file.
	{name: "copyrange", prep: "write path=@.src size=300000", do: "copyrange from=@.src path=@", size: m("@", 300_000), written: 300_000, causes: "write clone"},
	{name: "sendfile", prep: "write path=@.src size=300000", do: "sendfile from=@.src path=@", size: m("@", 300_000), written: 300_000, causes: "write"},
	{name: "splice", prep: "write path=@.src size=300000", do: "splice from=@.src path=@", size: m("@", 300_000), written: 300_000, causes: "write"},

	// Size and blocks without writing.
	{name: "trunc-up", prep: "create path=@", do: "truncate path=@ size=1048576", size: m("@", mib), disk: m("@", 0), causes: "truncate"},
	{name: "trunc-down", prep: "write path=@ size=50000", do: "truncate path=@ size=20000", size: m("@", -30_000), disk: m("@", 20_480-53_248), causes: "truncate"},
	{name: "ftruncate", do: "ftruncate path=@ size=4097", size: m("@", 4097), disk: m("@", 0), causes: "truncate"},
	{name: "fallocate", do: "fallocate path=@ size=1048576", size: m("@", mib), disk: m("@", mib), causes: "allocate"},
	{name: "falloc-keep", prep: "write path=@ size=100", do: "fallocate kind=keep path=@ size=65536", size: m("@", 0), disk: m("@", 61_440), causes: "allocate"},
	{name: "punch", prep: "write path=@ size=262144", do: "fallocate kind=punch path=@ offset=65536 size=65536", size: m("@", 0), disk: m("@", -65_536), causes: "allocate"},
	{name: "zero-range", do: "fallocate kind=zero path=@ size=65536", size: m("@", 65_536), disk: m("@", 65_536), causes: "allocate"},
	{name: "collapse", prep: "write path=@ size=65536", do: "fallocate kind=collapse path=@ offset=4096 size=8192", size: m("@", -8192), disk: m("@", -8192), causes: "allocate"},
	{name: "insert", prep: "write path=@ size=65536", do: "fallocate kind=insert path=@ offset=4096 size=8192", size: m("@", 8192), disk: m("@", 0), causes: "allocate"},
	{name: "mmap", prep: "create path=@ then truncate path=@ size=65536", do: "mmap path=@ size=65536", size: m("@", 0), disk: m("@", 65_536), causes: "mmap"},

	// Names.
	{name: "create", do: "create path=@", size: m("@", 0), disk: m("@", 0), causes: "create", origin: record.OriginAdded},
	{name: "mkdir", do: "mkdir path=@", size: m("@", 0), disk: m("@", 4096), causes: "create", origin: record.OriginDirectory},
	{name: "rmdir", prep: "mkdir path=@", do: "rmdir path=@", size: m("@", 0), disk: m("@", -4096), causes: "delete", origin: record.OriginDirectory, deleted: true},
	{name: "symlink", do: "symlink target=twenty-bytes-of-text path=@", size: m("@", 20), disk: m("@", 0), causes: "create", origin: record.OriginAdded},
	{name: "symlink-long", do: "symlink target=/" + strings.Repeat("x", 99) + " path=@", size: m("@", 100), disk: m("@", 4096), causes: "create"},
	{name: "fifo", do: "fifo path=@", size: m("@", 0), disk: m("@", 0), causes: "create"},
	{name: "socket", do: "socket path=@", size: m("@", 0), disk: m("@", 0), causes: "create"},
	{name: "link", prep: "write path=@.src size=5000", do: "link from=@.src path=@", size: m("@|@.src", 0)},
	{name: "rename", prep: "write path=@.old size=100", do: "rename from=@.old path=@ then append path=@ size=10", size: m("@", 10), written: 10, causes: "write"},
	{name: "exchange", prep: "write path=@ size=100 then write path=@.2 size=200", do: "rename kind=exchange from=@ path=@.2 then append path=@ size=10 then append path=@.2 size=20", size: m("@", 10, "@.2", 20), written: 30, causes: "write"},
	{name: "rename-over", prep: "write path=@ size=5000 then write path=@.new size=300", do: "rename from=@.new path=@", size: m("@", -5000), disk: m("@", -8192), causes: "delete rename", deleted: true},
	{name: "unlink", prep: "write path=@ size=7000", do: "unlink path=@", size: m("@", -7000), disk: m("@", -8192), causes: "delete", deleted: true},
	{name: "unlink-linked", prep: "write path=@.2 size=7000 then link from=@.2 path=@", do: "unlink path=@.2 then append path=@ size=5 then unlink path=@", size: m("@|@.2", -7000), disk: m("@|@.2", -8192), written: 5, causes: "delete", deleted: true},
	{name: "tmpfile", do: "tmpfile dir=/w path=@ size=5000 errno=EOPNOTSUPP", size: m("@", 5000), disk: m("@", 8192), written: 5000, causes: "write create"},
	{name: "tmpfile-lost", do: "tmpfile dir=/w size=5000 errno=EOPNOTSUPP then create path=@", size: m("@", 0), causes: "create"},

	// Attributes.
	{name: "setxattr", prep: "create path=@", do: "setxattr path=@ size=2000", size: m("@", 0), disk: m("@", 4096), causes: "metadata"},
	{name: "removexattr", prep: "create path=@ then setxattr path=@ size=2000", do: "removexattr path=@", size: m("@", 0), disk: m("@", -4096), causes: "metadata"},

	// Files of the image: copied up by whoever is about to change them.
	{name: "up-open", do: "open path=/img/open", path: "/img/open", size: m("/img/open", img("open")), disk: m("/img/open", 12_288), copyUp: img("open"), causes: "copy_up", origin: record.OriginCopiedUp},
	{name: "up-append", do: "append path=/img/append size=92", path: "/img/append", size: m("/img/append", img("append")+92), written: 92, copyUp: img("append"), causes: "copy_up", origin: record.OriginCopiedUp},
	{name: "up-rewrite", do: "rewrite path=/img/rewrite size=1", path: "/img/rewrite", size: m("/img/rewrite", img("rewrite")), written: 1, writes: 1, copyUp: img("rewrite"), causes: "copy_up", origin: record.OriginCopiedUp},
	{name: "up-mmap", do: "mmap path=/img/mmap size=8192", path: "/img/mmap", size: m("/img/mmap", img("mmap")), copyUp: img("mmap"), causes: "copy_up", origin: record.OriginCopiedUp},
	{name: "up-chmod", do: "chmod path=/img/chmod", path: "/img/chmod", size: m("/img/chmod", img("chmod")), copyUp: img("chmod"), causes: "copy_up", origin: record.OriginCopiedUp},
	{name: "up-chown", do: "chown path=/img/chown", path: "/img/chown", size: m("/img/chown", img("chown")), copyUp: img("chown"), causes: "copy_up", origin: record.OriginCopiedUp},
	{name: "up-chown-blob", do: "chown path=/usr/share/data/blob", path: "/usr/share/data/blob", size: m("/usr/share/data/blob", blobSize), copyUp: blobSize, causes: "copy_up", origin: record.OriginCopiedUp},
	{name: "up-utimes", do: "utimes path=/img/utimes", path: "/img/utimes", size: m("/img/utimes", img("utimes")), copyUp: img("utimes"), causes: "copy_up"},
	{name: "up-setxattr", do: "setxattr path=/img/setxattr size=10", path: "/img/setxattr", size: m("/img/setxattr", img("setxattr")), copyUp: img("setxattr"), causes: "copy_up"},
	{name: "up-truncate", do: "truncate path=/img/truncate size=4000", path: "/img/truncate", size: m("/img/truncate", 4000), disk: m("/img/truncate", 4096), copyUp: -1, causes: "copy_up", origin: record.OriginCopiedUp},
	{name: "up-overwrite", do: "overwrite path=/img/otrunc size=123", path: "/img/otrunc", size: m("/img/otrunc", 123), disk: m("/img/otrunc", 4096), written: 123, copyUp: -1, causes: "copy_up", origin: record.OriginCopiedUp},
	{name: "up-rename", do: "rename from=/img/rename path=@", size: m("/img/rename|@", img("rename")), copyUp: img("rename"), causes: "copy_up rename"},
	{name: "up-link", do: "link from=/img/link path=@", path: "/img/link|@", size: m("/img/link|@", img("link")), copyUp: img("link"), causes: "copy_up"},
	{name: "over-image", prep: "write path=@.new size=500", do: "rename from=@.new path=/img/over then append path=/img/over size=1", path: "/img/over", size: m("/img/over", 1), written: 1, causes: "write"},
	{name: "del-image", do: "unlink path=/img/unlink", path: "/img/unlink", size: m("/img/unlink", 0), causes: "delete", origin: record.OriginWhiteout},
	{name: "rmdir-image", do: "rmdir path=/img/emptydir", path: "/img/emptydir", size: m("/img/emptydir", 0), causes: "delete", origin: record.OriginWhiteout},
	{name: "rm-image-dir", do: "removeall path=/img/dir", path: "/img/dir", size: m("/img/dir", 0), causes: "delete", origin: record.OriginWhiteout},
	{name: "recreate", do: "unlink path=/img/sed then write path=/img/sed size=77", path: "/img/sed", size: m("/img/sed", 77), written: 77, causes: "write", origin: record.OriginAdded},
}

// m makes a map of paths and numbers.
func m(pairs ...any) map[string]int64 {
	out := map[string]int64{}
	for i := 0; i < len(pairs); i += 2 {
		switch n := pairs[i+1].(type) {
		case int:
			out[pairs[i].(string)] = int64(n)
		case int64:
			out[pairs[i].(string)] = n
		default:
			panic(fmt.Sprintf("m: %T is no number", n))
		}
	}
	return out
}

func (w *way) process() string { return "w-" + w.name }

func (w *way) text(s string) string { return strings.ReplaceAll(s, "@", "/w/"+w.name) }

// TestOneWay goes through the ways to change a layer one at a time, each by a
// process of its own, and requires size, disk, cause and origin of each.
func TestOneWay(t *testing.T) {
	b := newBox(t)
	ext4 := b.upperIsExt4(t)
	b.before = walkLayer(t, b.upper)
	s := watch(t, b.name)
	var done []*way
	for i := range ways {
		w := &ways[i]
		t.Run(w.name, func(t *testing.T) {
			defer s.in(t)()
			if !w.perform(t, b, ext4) {
				return
			}
			done = append(done, w)
			s.until(seenLimit, "the process is charged with what it did", func(v *view) error { return w.check(v, b, ext4) })
		})
	}
	t.Run("delete-while-open", func(t *testing.T) {
		defer s.in(t)()
		deleteWhileOpen(t, s, b, ext4)
	})
	t.Run("race", func(t *testing.T) {
		defer s.in(t)()
		race(t, s, b)
	})
	s.quiet(b)
	// Nothing that came later may have changed what was right.
	for _, w := range done {
		if err := w.check(&s.view, b, ext4); err != nil {
			t.Errorf("%s at the end: %v", w.name, err)
		}
	}
}

// perform does it, and holds the expectation against what the workload program
// says it did and against the disk, so that the test itself cannot be wrong. It
// returns false if the kernel cannot do it.
func (w *way) perform(t *testing.T, b *box, ext4 bool) bool {
	t.Helper()
	if w.prep != "" {
		b.run(t, "prep", fields(w.text(w.prep))...)
	}
	before := walkLayer(t, b.upper)
	results := b.run(t, w.process(), fields(w.text(w.do))...)
	if !w.adjust(t, results[0].Errno) {
		return false
	}
	after := walkLayer(t, b.upper)
	written := int64(0)
	for _, r := range results {
		written += r.Written
	}
	if written != w.written {
		t.Errorf("this test is wrong: the program wrote %d bytes, not %d: %+v", written, w.written, results)
	}
	want := int64(0)
	for _, size := range w.size {
		want += size
	}
	if after.size-before.size != want {
		t.Errorf("this test is wrong: the layer's size grew by %d, not %d: %+v", after.size-before.size, want, results)
	}
	if !ext4 {
		return true
	}
	diskOf := func(l *layerWalk, paths string) int64 {
		disk := map[uint64]int64{}
		for p := range strings.SplitSeq(w.text(paths), "|") {
			if number, n := l.find(p); n != nil {
				disk[number] = n.disk
			}
		}
		sum := int64(0)
		for _, d := range disk {
			sum += d
		}
		return sum
	}
	for paths, disk := range w.disk {
		if w.name == "rename-over" {
			// The victim's name now belongs to another file.
			continue
		}
		if got := diskOf(after, paths) - diskOf(before, paths); got != disk {
			t.Errorf("this test is wrong: the disk use of %s grew by %d, not %d: %+v", w.text(paths), got, disk, results)
		}
	}
	return true
}

// adjust fits the expectation to a kernel that refused the operation, where
// there are such kernels. It returns false if there is nothing left to check.
func (w *way) adjust(t *testing.T, errno string) bool {
	t.Helper()
	if !strings.HasPrefix(w.name, "tmpfile") {
		return true
	}
	// overlayfs can make nameless files since 6.6 or later.
	switch {
	case errno == "" && !kernelAtLeast(6, 6), errno != "" && kernelAtLeast(6, 12):
		t.Fatalf("O_TMPFILE on overlayfs said %q on kernel %v", errno, env.kernel)
	case errno != "":
		if w.name == "tmpfile" {
			return false
		}
		w.written = 0
	case w.name == "tmpfile-lost":
		w.written = 5000
	}
	return true
}

// check compares everything that the way's process is charged with.
func (w *way) check(v *view, b *box, ext4 bool) error {
	name := w.process()
	mine := func(g *growth) bool { return b.of(g) && g.process() == name }
	sum := v.sum(mine)
	var problems []string
	bad := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }

	wantSum := int64(0)
	named := map[string]bool{}
	in := func(paths string, what func(total) int64) int64 {
		n := int64(0)
		for p := range strings.SplitSeq(w.text(paths), "|") {
			n += what(v.byIn(b, name, p))
			named[p] = true
		}
		return n
	}
	for _, paths := range slices.Sorted(maps.Keys(w.size)) {
		wantSum += w.size[paths]
		if got := in(paths, func(t total) int64 { return t.size }); got != w.size[paths] {
			bad("size of %s grew by %d, want %d", w.text(paths), got, w.size[paths])
		}
	}
	if ext4 {
		for _, paths := range slices.Sorted(maps.Keys(w.disk)) {
			if got := in(paths, func(t total) int64 { return t.disk }); got != w.disk[paths] {
				bad("disk use of %s grew by %d, want %d", w.text(paths), got, w.disk[paths])
			}
		}
	}
	if sum.size != wantSum {
		bad("the process grew the layer by %d, want %d", sum.size, wantSum)
	}
	if sum.written != uint64(w.written) {
		bad("written_bytes is %d, want %d", sum.written, w.written)
	}
	if w.writes != 0 && sum.writes != uint64(w.writes) {
		bad("writes is %d, want %d", sum.writes, w.writes)
	}
	if copied := v.sum(func(g *growth) bool { return mine(g) && g.File.Origin != record.OriginDirectory }).copyUp; w.copyUp >= 0 && copied != w.copyUp {
		bad("copy_up_bytes of files is %d, want %d", copied, w.copyUp)
	}

	about := w.path
	if about == "" {
		about = "@"
	}
	on := func(g *growth) bool {
		return mine(g) && slices.Contains(strings.Split(w.text(about), "|"), g.path())
	}
	if w.causes != "" {
		got := v.sum(on)
		if !slices.ContainsFunc(strings.Fields(w.causes), func(c string) bool { return slices.Contains(got.causes, c) }) {
			bad("causes of %s are %q, want %q among them", w.text(about), got.causes, w.causes)
		}
	}
	var last *growth
	for i := range v.growth {
		if on(&v.growth[i]) {
			last = &v.growth[i]
		}
	}
	if last != nil {
		if w.origin != "" && last.File.Origin != w.origin {
			bad("origin of %s is %q, want %q", w.text(about), last.File.Origin, w.origin)
		}
		if w.deleted && v.sum(func(g *growth) bool { return on(g) && g.File.Deleted }).records == 0 {
			bad("no record of %s says deleted", w.text(about))
		}
		if last.Process.ContainerID != b.id || last.Process.Executable != "/bin/workload" {
			bad("the process is %+v, want container %s and executable /bin/workload", *last.Process, b.id)
		}
	}
	if problems == nil {
		return nil
	}
	return fmt.Errorf("%s\n%s", strings.Join(problems, "; "), v.linesOf(mine))
}

// deleteWhileOpen: a file without a name leaves the layer's size at once and the
// disk when it is closed.
func deleteWhileOpen(t *testing.T, s *session, b *box, ext4 bool) {
	const size = mib
	held := int64(size)
	before, err := s.lastLayer(b)
	if err != nil {
		t.Fatal(err)
	}
	if before.OpenDeletedBytes != 0 {
		t.Fatalf("open_deleted_bytes is %d before anything was deleted while open: %+v", before.OpenDeletedBytes, before)
	}
	const path = "/w/delete-open"
	p := b.spawn(t, "w-delete-open", fields("keep path=/w/delete-open then keptwrite path=/w/delete-open size=1048576 then wait then unlink path=/w/delete-open then wait then keptwrite path=/w/delete-open size=8192 then wait then release path=/w/delete-open then wait")...)
	p.until(t, "waiting")
	layer := func(v *view, size, openDeleted int64) error {
		l, err := v.lastLayer(b)
		if err != nil {
			return err
		}
		if l.Size != size || l.OpenDeletedBytes != openDeleted {
			return fmt.Errorf("layer size %d, open_deleted_bytes %d; want %d and %d: %+v", l.Size, l.OpenDeletedBytes, size, openDeleted, l)
		}
		return nil
	}
	s.until(seenLimit, "the file is in the layer", func(v *view) error { return layer(v, before.Size+size, 0) })
	p.resume(t)
	p.until(t, "waiting")
	s.until(seenLimit, "the deleted file is open", func(v *view) error {
		if err := layer(v, before.Size, held); err != nil {
			return err
		}
		got := v.byIn(b, "w-delete-open", path)
		if got.size != 0 || !slices.Contains(got.causes, "delete") {
			return fmt.Errorf("its records add up to %+v", got)
		}
		return nil
	})
	p.resume(t)
	p.until(t, "waiting")
	if ext4 {
		held += 8192
		s.until(seenLimit, "the deleted file grows", func(v *view) error { return layer(v, before.Size, held) })
	}
	p.resume(t)
	p.until(t, "waiting")
	s.until(seenLimit, "the deleted file is closed", func(v *view) error { return layer(v, before.Size, 0) })
	p.resume(t)
	p.finish(t)
}

// race: two processes append to one file as fast as they can. Each is charged
// with its own bytes exactly.
func race(t *testing.T, s *session, b *box) {
	const path = "/w/race"
	b.run(t, "prep", "create", "path="+path)
	racers := map[string]struct{ size, chunk int64 }{"w-race-a": {400_000, 1000}, "w-race-b": {311_000, 777}}
	var procs []*proc
	for name, r := range racers {
		procs = append(procs, b.spawn(t, name, fields(fmt.Sprintf("wait then append path=%s size=%d chunk=%d", path, r.size, r.chunk))...))
	}
	for _, p := range procs {
		p.until(t, "waiting")
	}
	for _, p := range procs {
		p.resume(t)
	}
	for _, p := range procs {
		p.finish(t)
	}
	s.until(seenLimit, "each racer is charged with its own bytes", func(v *view) error {
		for name, r := range racers {
			got := v.byIn(b, name, path)
			if got.size != r.size || got.written != uint64(r.size) {
				return fmt.Errorf("%s: size %d, written %d, want %d for both:\n%s", name, got.size, got.written, r.size, v.linesOf(func(g *growth) bool { return b.of(g) && g.path() == path }))
			}
		}
		return nil
	})
}
