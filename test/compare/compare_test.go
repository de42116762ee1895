//go:build linux

package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

func TestParseFiletop(t *testing.T) {
	got := parseFiletop(`00:01:02 loadavg: 1.02 0.50 0.20 3/150 812

TID     COMM             READS  WRITES R_Kb    W_Kb    T FILE
812     w-write          0      10     0       640     R write
813     w-write          0      6      0       384     R write
812     w-write          0      2      0       1       O [12345]
812     w-write          3      0      8       0       R hpage_pmd_size
814     tokio worker 1   0      3      0       77      R log
815     w-brief          0      1      0       0       R few bytes

`)
	want := map[string]int64{"w-write": 1 << 20, "w-brief": 0}
	if !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestParseBpftrace(t *testing.T) {
	const attached = `{"type": "attached_probes", "data": {"probes": 2}}` + "\n"
	for _, c := range []struct {
		name, text string
		want       map[string]int64
	}{
		{"nothing yet", attached, nil},
		{"empty map", attached + `{"type": "map", "data": {"@written": {}}}` + "\n\n", nil},
		{"the last counts", `{"type": "map", "data": {"@written": {"a": 1}}}` + "\n" + `{"type": "map", "data": {"@written": {"a": 3, "b b": 4}}}` + "\n", map[string]int64{"a": 3, "b b": 4}},
		{"half a line", `{"type": "map", "data": {"@written": {"a": 1}}}` + "\n" + `{"type": "map", "da`, map[string]int64{"a": 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := parseBpftrace(c.text)
			if err != nil || !maps.Equal(got, c.want) {
				t.Errorf("got %v, %v; want %v", got, err, c.want)
			}
		})
	}
	if _, err := parseBpftrace("{broken}\n"); err == nil {
		t.Error("a line that is no JSON is taken")
	}
}

func TestFatrace(t *testing.T) {
	all := parseFatrace(`compare(208): RCO /var/lib/docker/overlay2/67/link
w-write(336): +   /var/lib/docker/overlay2/67/diff/w
w-chown(584): <   /var/lib/docker/overlay2/67/work/work
w-chown(584): CW  /var/lib/docker/overlay2/67/work/work/#105 (deleted)
w-chown(584): W   /var/lib/docker/overlay2/67/work/work/#105 (deleted)
odd (name)(7): O   /var/x
not an event
`)
	if len(all) != 6 || all[0] != (access{"compare", 208, "RCO"}) || all[5].process != "odd (name)" {
		t.Errorf("parsed as %+v", all)
	}
	got, want := changes(all), map[string]string{"w-write": "+", "w-chown": "W<"}
	if !maps.Equal(got, want) {
		t.Errorf("changes are %v, want %v", got, want)
	}
}

func TestBytesText(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0", 1: "+1 B", 1000: "+1,000 B", 1 << 10: "+1 KiB", 204 << 10: "+204 KiB", -8192: "-8 KiB",
		1 << 20: "+1 MiB", -1 << 20: "-1 MiB", 3_700_000: "+3,700,000 B", 3624 << 10: "+3,710,976 B", -1234: "-1,234 B",
	} {
		if got := growthText(n); got != want {
			t.Errorf("%d: got %q, want %q", n, got, want)
		}
	}
}

// The names of processes are cut after 15 bytes, and must differ.
func TestWays(t *testing.T) {
	names := programs(ways)
	if len(slices.Compact(slices.Clone(names))) != len(names) {
		t.Errorf("a name comes twice: %v", names)
	}
	for _, name := range names {
		if len(name) > 15 {
			t.Errorf("%s is too long for a process's name", name)
		}
	}
	for i := range ways {
		if strings.Contains(ways[i].prep+ways[i].do, ",") {
			t.Errorf("%s: a comma would end the word", ways[i].name)
		}
	}
}

func TestService(t *testing.T) {
	got := strings.Join(service([]way{
		{name: "a", prep: "create path=@", do: "truncate path=@ size=5"},
		{name: "b", do: "unlink path=@", brief: true},
	}), " ")
	want := "/bin/workload mkdir path=/w then signal" +
		" then start exe=/bin/prep args=create,path=/w/a then await then signal" +
		" then start exe=/bin/w-a args=truncate,path=/w/a,size=5,then,signal then await then signal" +
		" then signal then start exe=/bin/w-b args=unlink,path=/w/b then await then signal"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// growthLine is a record of a container called c.
func growthLine(process, exe, path, class string, size, disk, written int64) string {
	return fmt.Sprintf(`{"type":"growth","container":{"id":"c"},"process":{"name":%q,"executable":%q,"container_id":"c"},"file":{"path":%q},"storage":{"class":%q},"size_growth":%d,"disk_growth":%d,"written_bytes":%d,"causes":["write"]}`+"\n",
		process, exe, path, class, size, disk, written)
}

const layerLine = `{"type":"layer","container":{"id":"c"},"size":150,"allocated":12288,"baseline_size":50,"baseline_allocated":8192}` + "\n"

func TestJudge(t *testing.T) {
	before, after := sizes{50, 8192}, sizes{150, 12288}
	prep := growthLine("prep", "/bin/prep", "/w/b", "layer", 5, 0, 5) + growthLine("prep", "/bin/prep", "/w/b", "layer", -5, 0, 0)
	good := prep + growthLine("w-a", "/bin/w-a", "/w/a", "layer", 60, 4096, 60) + growthLine("w-a", "/bin/w-a", "/w/a", "layer", 40, 0, 40)
	directory := func(line string) string { return strings.Replace(line, `"/w/a"`, `"/w","origin":"directory"`, 1) }
	more := strings.ReplaceAll(good, `["write"]`, `["write","mmap"]`)
	other := strings.ReplaceAll(growthLine("w-a", "/bin/w-a", "/w/a", "layer", 7, 7, 7), `"id":"c"`, `"id":"d"`)
	volume := growthLine("w-v", "/bin/w-v", "/data/v", "volume", 9, 0, 9)
	for _, c := range []struct {
		name, text string
		wrong      []string // a part of each complaint
	}{
		{"right", good + other + volume + layerLine, nil},
		{"too little", growthLine("w-a", "/bin/w-a", "/w/a", "layer", 99, 4096, 100) + volume + layerLine, []string{"a: the growth in size is said to be 99 and is 100", "all growth together"}},
		{"on the disk", growthLine("w-a", "/bin/w-a", "/w/a", "layer", 100, 0, 100) + volume + layerLine, []string{"a: the growth on the disk", "all growth together"}},
		{"written", good + growthLine("w-v", "/bin/w-v", "/data/v", "volume", 9, 0, 8) + layerLine, []string{"v: what was written is said to be 8 and is 9"}},
		{"volume in the layer", good + growthLine("w-v", "/bin/w-v", "/data/v", "layer", 9, 0, 9) + layerLine, []string{"v: the growth in size", "v: the causes", "all growth together"}},
		{"wrong process", growthLine("sh", "/bin/sh", "/w/a", "layer", 100, 4096, 100) + volume + layerLine, []string{"a: the growth in size", "a: the growth on the disk", "a: what was written", "a: the causes", `process "sh"`}},
		{"wrong executable", strings.ReplaceAll(good, "/bin/w-a", "/bin/x") + volume + layerLine, []string{"a: the process", "a: the process"}},
		{"wrong path", strings.ReplaceAll(good, "/w/a", "/w/x") + volume + layerLine, []string{"a: /w/x", "a: /w/x"}},
		{"the disk of another path", strings.Replace(good, `"/w/a"},"storage":{"class":"layer"},"size_growth":60`, `"/w/x"},"storage":{"class":"layer"},"size_growth":0`, 1) + growthLine("w-a", "/bin/w-a", "/w/a", "layer", 60, 0, 0) + volume + layerLine, []string{"a: /w/x is said to have grown by 0, 4096 on the disk"}},
		{"the disk of its directory", prep + directory(growthLine("w-a", "/bin/w-a", "/w/a", "layer", 0, 4096, 0)) + growthLine("w-a", "/bin/w-a", "/w/a", "layer", 100, 0, 100) + volume + layerLine, nil},
		{"wrong cause", strings.ReplaceAll(good, `["write"]`, `["truncate"]`) + volume + layerLine, []string{`a: the causes are said to be "truncate" and are "write"`}},
		{"one cause too many", more + volume + layerLine, []string{`a: the causes are said to be "mmap write"`}},
		{"by nobody", good + `{"type":"growth","container":{"id":"c"},"file":{"path":"/w/a"},"storage":{"class":"layer"},"causes":["unattributed"]}` + "\n" + volume + layerLine, []string{"/w/a is said to have grown by 0, 0 on the disk, by nobody"}},
		{"unattributed", good + volume + strings.Replace(layerLine, `"size"`, `"unattributed_disk":4096,"size"`, 1), []string{"what is unattributed"}},
		{"loss", good + `{"type":"loss","reason":"ring_full","events":1}` + "\n" + `{"type":"loss","container":{"id":"d"},"reason":"ring_full","events":1}` + "\n" + volume + layerLine, []string{"1 events and 0 bytes are said to be lost: ring_full"}},
		{"prepared wrongly", good + growthLine("prep", "/bin/prep", "/w/b", "layer", 7, 0, 7) + volume + layerLine, []string{"all growth together", "what was prepared"}},
		{"prepared elsewhere", strings.Replace(good, `"/w/b"`, `"/etc/b"`, 1) + volume + layerLine, []string{`process "prep" is said to have grown /etc/b by 5`, "what was prepared"}},
		{"wrong totals", good + volume + strings.Replace(layerLine, "150", "151", 1), []string{"the layer at the end"}},
		{"wrong baseline", good + volume + strings.Replace(layerLine, "50,", "51,", 2), []string{"the layer at the start", "the layer at the end"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			tested := []way{{name: "a", causes: "write"}, {name: "v", path: "/data/v"}}
			s, err := readStream(c.text, "c", tested)
			if err != nil {
				t.Fatal(err)
			}
			rows := []row{{way: &tested[0], change: after.minus(before), written: 100}, {way: &tested[1], written: 9}}
			for i := range rows {
				s.judge(&rows[i])
			}
			err = verdict(rows, s.check(rows, before, after))
			if (err == nil) != (c.wrong == nil) {
				t.Fatalf("verdict: %v", err)
			}
			for _, part := range c.wrong {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q is not in: %v", part, err)
				}
			}
			if err != nil && strings.Count(err.Error(), "\n") != len(c.wrong) {
				t.Errorf("%d complaints expected: %v", len(c.wrong), err)
			}
		})
	}
	if _, err := readStream(good, "c", ways); err == nil {
		t.Error("a stream without totals is taken")
	}
}

func TestCaused(t *testing.T) {
	for _, c := range []struct {
		causes string
		said   []string
		want   bool
	}{
		{"create write", []string{"create", "write"}, true},
		{"create write", []string{"create"}, false},
		{"delete", []string{"delete", "write"}, false},
		{"allocate create", []string{"allocate", "create", "write"}, true},
		{"allocate create", []string{"create", "write"}, false},
		{"", nil, true},
	} {
		if w := (way{causes: c.causes}); w.caused(c.said) != c.want {
			t.Errorf("%q for %q: not %v", c.said, c.causes, c.want)
		}
	}
}

func TestTable(t *testing.T) {
	rows := []row{
		{way: &way{title: "write", name: "a"}, change: sizes{1 << 20, 1 << 20}, docker: 1 << 20,
			account: account{sizes: sizes{1 << 20, 1 << 20}, written: 1 << 20, causes: []string{"create", "write"}}},
		{way: &way{title: "map", name: "b"}, change: sizes{0, 4096}, account: account{causes: []string{"mmap"}}, wrong: []string{"so"}},
		{way: &way{title: "volume", name: "c"}, account: account{covered: 10, class: "volume"}},
	}
	got := table(rows, findings{
		filetop: map[string]int64{"w-a": 1 << 20, "w-c": 10},
		fatrace: map[string]string{"w-a": "W+"},
	})
	const want = `| way | on the disk: size, allocated | layertrace: growth in size, on the disk | layertrace: written | layertrace: cause | ` + "`filetop`: written | bpftrace: `vfs_write` | `fatrace`: events | `docker ps -s`" + ` |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
| write | +1 MiB, +1 MiB | +1 MiB, +1 MiB | 1 MiB | create, write | 1 MiB | - | ` + "`W+`" + ` | +1 MiB |
| map | 0, +4 KiB | 0, 0 **wrong** | 0 | mmap | not seen | - | not seen | 0 |
| volume | 0, 0 | 0, 0 | 10 B (volume) |  | 10 B | - | not seen | 0 |
| **right** |  | 2 of 3 |  |  | 1 of 3 | - |  | 3 of 3 |
`
	if got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}
