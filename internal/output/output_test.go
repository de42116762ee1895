package output

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/layertrace/layertrace/internal/output/outputtest"
	"github.com/layertrace/layertrace/internal/record"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestNDJSON(t *testing.T) {
	var b bytes.Buffer
	n := NewNDJSON(&b)
	for _, r := range stream() {
		if err := n.Write(r); err != nil {
			t.Fatal(err)
		}
	}
	if b.Len() != 0 {
		t.Errorf("%d bytes were written before Flush", b.Len())
	}
	if err := n.Flush(); err != nil {
		t.Fatal(err)
	}
	if !bytes.HasSuffix(b.Bytes(), []byte("\n")) {
		t.Error("the last line is not ended")
	}
	lines := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
	if len(lines) != len(stream()) {
		t.Fatalf("%d lines for %d records", len(lines), len(stream()))
	}
	for i, line := range lines {
		if err := outputtest.Validate([]byte(line)); err != nil {
			t.Error(err)
		}
		var head struct {
			Type string
			V    int
			Time string
			Seq  int
		}
		if err := json.Unmarshal([]byte(line), &head); err != nil {
			t.Fatal(err)
		}
		if head.Seq != i+1 || head.V != 1 || head.Time != "2026-01-02T12:00:00.000000006Z" {
			t.Errorf("line %d begins with %+v", i+1, head)
		}
	}
	golden(t, "stream.ndjson", b.Bytes())
}

func TestNDJSONNames(t *testing.T) {
	for _, raw := range []string{"/plain", "/<a>&b", "/tab\tnew\nline", "/\xff\xfe", "/日本語", "/a\xc3", "/\u2028", `/"\`, "/\ufffd"} {
		var b bytes.Buffer
		n := NewNDJSON(&b)
		if err := errors.Join(n.Write(growth(nil, raw, 1, 1, record.CauseUnattributed)), n.Flush()); err != nil {
			t.Fatal(err)
		}
		if err := outputtest.Validate(b.Bytes()); err != nil {
			t.Error(err)
		}
		if strings.Contains(b.String(), `\u003c`) {
			t.Errorf("HTML was escaped: %s", b.Bytes())
		}
		var g record.Growth
		if err := json.Unmarshal(b.Bytes(), &g); err != nil {
			t.Fatal(err)
		}
		if got := record.Raw(g.File.Path, g.File.PathB64); got != raw {
			t.Errorf("%q came back as %q", raw, got)
		}
		if strings.ToValidUTF8(raw, "") == raw && g.File.PathB64 != "" {
			t.Errorf("%q has a base64 form", raw)
		}
	}
}

// TestFastEncoding holds the encoder for growth records against encoding/json.
func TestFastEncoding(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.OneOf(rapid.String(), rapid.StringOfN(rapid.RuneFrom([]rune("a\n\"\\\u2028<&\x00é")), 0, 8, -1),
			rapid.Custom(func(t *rapid.T) string { return string(rapid.SliceOf(rapid.Byte()).Draw(t, "bytes")) }))
		g := rapid.Custom(func(t *rapid.T) *record.Growth {
			draw := func() string { return text.Draw(t, "text") }
			num := func() int64 { return rapid.Int64().Draw(t, "number") }
			yes := func() bool { return rapid.Bool().Draw(t, "yes") }
			g := &record.Growth{
				Header:    record.NewHeader(record.TypeGrowth, time.Unix(num()>>32, num()>>34)),
				Container: record.Container{ID: draw(), Name: draw(), NameB64: draw(), Image: draw(), Runtime: draw()},
				File: record.File{Path: draw(), PathB64: draw(), PathIncomplete: yes(), PreviousPath: draw(), PreviousPathB64: draw(),
					Origin: draw(), Size: num(), Allocated: num(), Deleted: yes(), Inode: uint64(num())},
				Storage: record.Storage{Class: draw(), Destination: draw(), DestinationB64: draw(),
					Source: draw(), SourceB64: draw(), Name: draw()},
				WrittenBytes: uint64(num()), Writes: uint64(num()), SizeGrowth: num(), DiskGrowth: num(), CopyUpBytes: num(),
				Causes: rapid.SliceOf(text).Draw(t, "causes"),
			}
			if g.Causes == nil {
				g.Causes = []string{}
			}
			if yes() {
				g.Process = &record.Process{PID: uint32(num()), ParentPID: uint32(num() & 1), Name: draw(), NameB64: draw(), Executable: draw(),
					ExecutableB64: draw(), StartTime: time.Unix(num()>>32, num()>>34).UTC(), ContainerID: draw(), Exited: yes()}
			}
			return g
		})
		var got, want bytes.Buffer
		n := NewNDJSON(&got)
		slow := json.NewEncoder(&want)
		slow.SetEscapeHTML(false)
		for _, g := range rapid.SliceOfN(g, 1, 3).Draw(t, "records") {
			for range 2 { // the second time from the cache
				if err := n.Write(g); err != nil {
					t.Fatal(err)
				}
				if err := slow.Encode(g); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := n.Flush(); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Bytes(), want.Bytes()) {
			t.Errorf("got  %s\nwant %s", got.Bytes(), want.Bytes())
		}
	})
}

// TestFastEncodingHasAllFields fails when a field is added that the encoder for
// growth records does not know.
func TestFastEncodingHasAllFields(t *testing.T) {
	fill := func(v any) {
		var set func(v reflect.Value)
		set = func(v reflect.Value) {
			switch v.Kind() {
			case reflect.Struct:
				if v.Type() == reflect.TypeFor[record.Time]() || v.Type() == reflect.TypeFor[time.Time]() {
					return
				}
				for i := range v.NumField() {
					set(v.Field(i))
				}
			case reflect.Pointer:
				v.Set(reflect.New(v.Type().Elem()))
				set(v.Elem())
			case reflect.String:
				v.SetString("x")
			case reflect.Bool:
				v.SetBool(true)
			case reflect.Slice:
				v.Set(reflect.MakeSlice(v.Type(), 1, 1))
				set(v.Index(0))
			default:
				v.Set(reflect.ValueOf(1).Convert(v.Type()))
			}
		}
		set(reflect.ValueOf(v).Elem())
	}
	var g record.Growth
	fill(&g)
	var want bytes.Buffer
	slow := json.NewEncoder(&want)
	if err := slow.Encode(&g); err != nil {
		t.Fatal(err)
	}
	if got := new(growthEncoder).append(nil, &g); !bytes.Equal(got, want.Bytes()) {
		t.Errorf("got  %s\nwant %s", got, want.Bytes())
	}
}

func FuzzText(f *testing.F) {
	f.Add("a\xffb")
	f.Fuzz(func(t *testing.T, raw string) {
		text, b64 := record.Text(raw)
		if record.Raw(text, b64) != raw {
			t.Errorf("%q, %q is not %q", text, b64, raw)
		}
		if b64 != "" && b64 != base64.StdEncoding.EncodeToString([]byte(raw)) {
			t.Errorf("%q", b64)
		}
		if p := Printable(raw); strings.ContainsFunc(p, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			t.Errorf("%q is not printable", p)
		}
	})
}

// wholeLines fails a test if it is given anything but whole lines.
type wholeLines struct {
	t      *testing.T
	writes int
}

func (w *wholeLines) Write(p []byte) (int, error) {
	if w.writes++; !bytes.HasSuffix(p, []byte("\n")) {
		w.t.Errorf("write %d ends within a line", w.writes)
	}
	return len(p), nil
}

func TestNDJSONWritesWholeLines(t *testing.T) {
	w := &wholeLines{t: t}
	n := NewNDJSON(w)
	for range 10_000 {
		if err := n.Write(growth(node(1), "/a", 1, 1, record.CauseWrite)); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.Flush(); err != nil {
		t.Fatal(err)
	}
	if w.writes < 10 || w.writes > 1000 {
		t.Errorf("%d writes", w.writes)
	}
}

// disk is a writer with room for so many bytes, that takes at most 100 at once.
type disk struct {
	bytes.Buffer
	room int
}

func (d *disk) Write(p []byte) (int, error) {
	n := min(len(p), d.room, 100)
	d.room -= n
	d.Buffer.Write(p[:n])
	if d.room == 0 && n < len(p) {
		return n, &os.PathError{Op: "write", Path: "out.ndjson", Err: syscall.ENOSPC}
	}
	return n, nil // short without an error: what a bad writer does
}

func TestNDJSONDiskFull(t *testing.T) {
	d := &disk{room: 1234}
	n := NewNDJSON(d)
	for range 10 {
		if err := n.Write(growth(node(1), "/a", 1, 1, record.CauseWrite)); err != nil {
			t.Fatal(err)
		}
	}
	err := n.Flush()
	if !errors.Is(err, syscall.ENOSPC) || errors.Is(err, ErrClosed) || !strings.Contains(err.Error(), "no space left") {
		t.Fatalf("error %v", err)
	}
	d.room = 1 << 20
	if err := n.Write(growth(node(1), "/b", 1, 1, record.CauseWrite)); err != nil {
		t.Fatal(err)
	}
	if err := n.Flush(); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(d.String(), "\n"), "\n")
	if len(lines) != 11 {
		t.Fatalf("%d lines", len(lines))
	}
	for _, line := range lines {
		if err := outputtest.Validate([]byte(line)); err != nil {
			t.Error(err)
		}
	}
}

func TestClosedPipe(t *testing.T) {
	for name, open := range map[string]func(io.Writer) Writer{
		"ndjson": func(w io.Writer) Writer { return NewNDJSON(w) },
		"table":  func(w io.Writer) Writer { return NewTable(w, TableOptions{}) },
		"live":   func(w io.Writer) Writer { return NewLive(w, TableOptions{}) },
	} {
		t.Run(name, func(t *testing.T) {
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			out := open(w)
			r.Close()
			if err := out.Write(interval()[0]); err != nil {
				t.Fatal(err)
			}
			if err := out.Flush(); !errors.Is(err, ErrClosed) {
				t.Errorf("Flush: %v", err)
			}
			if err := out.Write(summary()); !errors.Is(err, ErrClosed) {
				t.Errorf("Write after that: %v", err)
			}
			if err := out.Flush(); !errors.Is(err, ErrClosed) {
				t.Errorf("Flush after that: %v", err)
			}
		})
	}
}

func TestValidateRefuses(t *testing.T) {
	good := `{"type":"loss","v":1,"time":"2026-01-02T03:04:05.000000006Z","seq":1,"reason":"ring_full","events":1,"bytes":0}`
	if err := outputtest.Validate([]byte(good + "\n")); err != nil {
		t.Fatal(err)
	}
	if err := outputtest.Validate([]byte(strings.Replace(good, `"v":1`, `"v":1,"later":true`, 1))); err != nil {
		t.Errorf("an added field: %v", err)
	}
	for _, bad := range []string{
		``, `{}`, `[]`, good + good, good + "\n" + good, good[:len(good)-1],
		strings.Replace(good, `"loss"`, `"lost"`, 1),
		strings.Replace(good, `"v":1`, `"v":2`, 1),
		strings.Replace(good, `"seq":1`, `"seq":0`, 1),
		strings.Replace(good, `000000006Z`, `6Z`, 1),
		strings.Replace(good, `ring_full`, `whatever`, 1),
		strings.Replace(good, `"events":1,`, ``, 1),
		strings.Replace(good, `"events":1`, `"events":"1"`, 1),
	} {
		if err := outputtest.Validate([]byte(bad)); err == nil {
			t.Errorf("accepted: %s", bad)
		}
	}
}

func TestParseSize(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "4096": 4096, "10MiB": 10 << 20, "10MB": 10_000_000, "10 mib": 10 << 20, "1.5GiB": 3 << 29,
		"10K": 10 << 10, "1kB": 1000, "7B": 7, "0.5k": 512, "2TiB": 2 << 40, "9223372036854775807": math.MaxInt64, " 1 M ": 1 << 20,
	} {
		if got, err := ParseSize(text); err != nil || got != want {
			t.Errorf("ParseSize(%q) = %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "x", "-1", "+1", "1.5", "10XB", "1.2.3M", "MiB", "9223372036854775808", "9EiB", "8192PiB", "1e3", ".", "NaN", "1 0"} {
		if got, err := ParseSize(text); err == nil {
			t.Errorf("ParseSize(%q) = %d", text, got)
		} else if !strings.Contains(err.Error(), text) {
			t.Errorf("ParseSize(%q): %v", text, err)
		}
	}
	if got, err := ParseRate("5MiB/s"); err != nil || got != 5<<20 {
		t.Errorf("ParseRate = %d, %v", got, err)
	}
	for _, text := range []string{"5MiB", "/s", "5MiB/m", "x/s"} {
		if _, err := ParseRate(text); err == nil {
			t.Errorf("ParseRate(%q) was accepted", text)
		}
	}
}

func FuzzParseSize(f *testing.F) {
	f.Add("10MiB")
	f.Fuzz(func(t *testing.T, s string) {
		if n, err := ParseSize(s); err == nil && n < 0 {
			t.Errorf("ParseSize(%q) = %d", s, n)
		}
	})
}

func TestFormat(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1: "+1 B", -4096: "-4.0 KiB", 1 << 20: "+1.0 MiB", math.MinInt64: "-8.0 EiB"} {
		if got := FormatGrowth(n); got != want {
			t.Errorf("FormatGrowth(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestPrintable(t *testing.T) {
	for raw, want := range map[string]string{
		"/var/log": "/var/log", "/日本": "/日本", "a\nb\tc\rd": `a\nb\tc\rd`, "\x1b[2J": `\x1b[2J`, "\x7f": `\x7f`,
		"\u202egpj": `\u202egpj`, "\xff\xc3": `\xff\xc3`, "\u0085": `\u0085`, "\U000e0001": `\U000e0001`, "\u00a0": `\u00a0`, "\ufffd": "\ufffd",
	} {
		if got := Printable(raw); got != want {
			t.Errorf("Printable(%q) = %q, want %q", raw, got, want)
		}
	}
}

func TestShorten(t *testing.T) {
	const long = "/var/log/app/current/access/app.log"
	for _, c := range []struct {
		path string
		n    int
		want string
	}{
		{"/a/b", 4, "/a/b"},
		{long, 40, long},
		{long, 30, "/var/log/app/current/…/app.log"},
		{long, 29, "/var/log/app/…/app.log"},
		{long, 15, "/var/…/app.log"},
		{long, 10, "/…/app.log"},
		{long, 9, "…/app.log"},
		{long, 2, "…/app.log"},
		{"/name-only.log", 3, "/name-only.log"},
		{"/a/very/deep/directory/", 14, "/…/directory/"},
		{"/日本語日本語/名前", 12, "/…/名前"},
	} {
		if got := shorten(c.path, c.n); got != c.want {
			t.Errorf("shorten(%q, %d) = %q, want %q", c.path, c.n, got, c.want)
		}
	}
}

func TestColorAllowed(t *testing.T) {
	env := func(kv ...string) func(string) string {
		return func(k string) string {
			for i := 0; i < len(kv); i += 2 {
				if kv[i] == k {
					return kv[i+1]
				}
			}
			return ""
		}
	}
	for _, c := range []struct {
		no, terminal bool
		env          func(string) string
		want         bool
	}{
		{false, true, env(), true},
		{true, true, env(), false},
		{false, false, env(), false},
		{false, true, env("NO_COLOR", "1"), false},
		{false, true, env("NO_COLOR", ""), true},
		{false, true, env("TERM", "dumb"), false},
	} {
		if got := ColorAllowed(c.no, c.terminal, c.env); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

// golden compares with a file below testdata.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs (-update writes it anew); got:\n%s", file, got)
	}
}

func fixed(n int) func() int { return func() int { return n } }

func TestTable(t *testing.T) {
	for name, opt := range map[string]TableOptions{
		"plain":   {},
		"width80": {Width: fixed(80)},
		"width50": {Width: fixed(50), Location: time.FixedZone("", 3600)},
		"color":   {Width: fixed(100), Color: true},
		"process": {Group: GroupProcess},
		"path":    {Group: GroupPath},
		"dir":     {Group: GroupDir},
		"dir2":    {Group: GroupDir, Depth: 2, Width: fixed(80)},
		"rows3":   {Rows: 3},
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			w := NewTable(&b, opt)
			for _, r := range stream() {
				if err := w.Write(r); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.Flush(); err != nil {
				t.Fatal(err)
			}
			golden(t, "table-"+name+".txt", b.Bytes())
		})
	}
}

func TestTableSilent(t *testing.T) {
	var b bytes.Buffer
	w := NewTable(&b, TableOptions{})
	for range 3 {
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	if b.Len() != 0 {
		t.Errorf("an interval without records wrote %q", b.String())
	}
}

func TestTableDriver(t *testing.T) {
	for _, test := range []struct{ runtime, driver, want string }{
		{"docker", "overlay2", "(docker ps -s)  disk 1 B, +1 B (du)"},
		{"docker", "overlayfs", "(file sizes)  disk 1 B, +1 B (du, docker ps -s)"},
		{"docker", "vfs", "(file sizes)  disk 1 B, +1 B (du)"},
		{"docker", "btrfs", "(file sizes)  disk 1 B, +1 B (du)"},
		{"docker", "fuse-overlayfs", "(file sizes)  disk 1 B, +1 B (du)"},
		{"podman", "overlay", "(file sizes)  disk 1 B, +1 B (du)"},
		{"containerd", "overlayfs", "(file sizes)  disk 1 B, +1 B (du)"},
	} {
		api, driver, want := api, test.driver, test.want
		api.Runtime = test.runtime
		var b bytes.Buffer
		w := NewTable(&b, TableOptions{})
		e := &record.ContainerEvent{Header: record.NewHeader(record.TypeContainer, noon), Event: record.ContainerFound, Container: api, Driver: driver}
		if err := errors.Join(w.Write(e), w.Write(layerTotals(api, 1, 1, 1, 1)), w.Flush()); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(b.String(), want) {
			t.Errorf("%s, driver %s: %s", test.runtime, driver, b.String())
		}
	}
}

func TestLive(t *testing.T) {
	var b bytes.Buffer
	w := NewLive(&b, TableOptions{Width: fixed(100), Height: fixed(16)})
	write := func(recs ...record.Record) {
		t.Helper()
		for _, r := range recs {
			if err := w.Write(r); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	write(session())
	write(interval()...)
	write(growth(node(4242), "/var/log/app/current/access/app.log", 8192, 8192, record.CauseWrite))
	for _, frame := range strings.Split(b.String(), home)[1:] {
		if n := strings.Count(frame, "\r\n"); n >= 16 {
			t.Errorf("%d lines on a screen of 16", n)
		}
	}
	write(losses()...)
	if err := w.Write(summary()); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Close(), w.Close()); err != nil {
		t.Fatal(err)
	}
	if s := b.String(); strings.Count(s, leaveLive) != 1 || strings.Count(s, enterLive) != 1 {
		t.Error("the cursor is not hidden and shown once each")
	}
	if !strings.Contains(b.String(), "names came too fast (ring_full), 1 event"+endOfLine) {
		t.Error("the latest note was cut off")
	}
	golden(t, "live.txt", []byte(strings.NewReplacer("\x1b", "<esc>", "\r", "").Replace(b.String())))
}

func TestLiveIsBounded(t *testing.T) {
	w := NewLive(io.Discard, TableOptions{Height: fixed(20)})
	for i := range uint32(3 * maxLiveRows) {
		if err := w.Write(growth(node(i+1), "/f", int64(i), 0, record.CauseWrite)); err != nil {
			t.Fatal(err)
		}
		if i%1000 == 0 {
			if err := w.Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	if n := len(w.view.sections[api.ID].rows); n > maxLiveRows {
		t.Errorf("%d rows are remembered", n)
	}
}

func TestLiveManyContainers(t *testing.T) {
	var b bytes.Buffer
	w := NewLive(&b, TableOptions{Height: fixed(24)})
	for i := range 50 {
		c := record.Container{ID: strings.Repeat(string(rune('A'+i)), 64), Name: "c" + string(rune('A'+i))}
		if err := w.Write(layerTotals(c, 1, 1, int64(i), 1)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(b.String(), "\r\n"); n >= 24 {
		t.Errorf("%d lines on a screen of 24", n)
	}
	if !strings.Contains(b.String(), "more containers") {
		t.Error("those left out are not mentioned")
	}
}

// TestGrowthAllocatesNothing: of growth records there may be very many.
func TestGrowthAllocatesNothing(t *testing.T) {
	n := NewNDJSON(io.Discard)
	g := growth(node(4242), "/var/log/app/current/access/app.log", 8192, 8192, record.CauseWrite)
	fill := func() {
		if err := n.Write(g); err != nil {
			t.Fatal(err)
		}
	}
	for range 1000 { // the buffer grows to its size
		fill()
	}
	if allocs := testing.AllocsPerRun(1000, fill); allocs != 0 {
		t.Errorf("%v allocations a record", allocs)
	}
}

func BenchmarkNDJSON(b *testing.B) {
	n := NewNDJSON(io.Discard)
	g := growth(node(4242), "/var/log/app/current/access/app.log", 8192, 8192, record.CauseWrite)
	b.ReportAllocs()
	for b.Loop() {
		if err := n.Write(g); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkTable(b *testing.B) {
	var recs []record.Record
	for i := range uint32(10_000) {
		recs = append(recs, growth(node(i), "/var/log/app/current/access/app.log", int64(i), 8192, record.CauseWrite))
	}
	b.ReportAllocs()
	for b.Loop() {
		w := NewTable(io.Discard, TableOptions{Width: fixed(100)})
		for _, r := range recs {
			if err := w.Write(r); err != nil {
				b.Fatal(err)
			}
		}
		if err := w.Flush(); err != nil {
			b.Fatal(err)
		}
	}
}

// TestTakeBack: of a file the beginning of a line is taken out again, unless somebody
// else has written behind it.
func TestTakeBack(t *testing.T) {
	for name, tc := range map[string]struct {
		flags int
		other string
		taken bool
		want  string
	}{
		"appending":    {os.O_APPEND, "", true, "whole\nnext\n"},
		"at an offset": {0, "", true, "whole\nnext\n"},
		"not alone":    {os.O_APPEND, "other\n", false, "whole\nhalother\nnext\n"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "out")
			f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|tc.flags, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			write := func(s string) {
				if _, err := f.WriteString(s); err != nil {
					t.Fatal(err)
				}
			}
			write("whole\nhal")
			write(tc.other)
			if taken := takeBack(f, []byte("hal")); taken != tc.taken {
				t.Errorf("taken back: %t", taken)
			}
			write("next\n")
			if got, err := os.ReadFile(path); err != nil || string(got) != tc.want {
				t.Errorf("%q, %v, want %q", got, err, tc.want)
			}
		})
	}
	if takeBack(&bytes.Buffer{}, []byte("x")) {
		t.Error("a buffer is no file")
	}
}
