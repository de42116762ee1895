package resolver

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

func TestParseMounts(t *testing.T) {
	long := strings.Repeat("/lower:", 20000) // 140 KB
	text := "36 35 98:1 /mnt1 /mnt2 rw,noatime master:1 shared:2 - ext3 /dev/root rw,errors=continue\n" +
		"not a mount\n\n" +
		"1 2 3 4 5 6 7 8 9 10\n" +
		"37 35 0:9 / /a\\040b\\011\\134\\012c ro - fuse.sshfs u@h:/x\\040y rw,user_id=0\n" +
		"38 35 0:10 / /d\xff rw - overlay overlay rw,lowerdir=" + long + "\n" +
		"39 35 5000:10 / /major rw - x x rw\n" +
		"40 35 0:-1 / /minor rw - x x rw\n" +
		"41 35 0:11 / relative rw - x x rw\n" +
		"42 35 0:11 / /truncated rw - x"
	want := mountTable{
		{id: 36, parent: 35, device: 98<<20 | 1, root: "/mnt1", point: "/mnt2", fsType: "ext3", source: "/dev/root", options: "rw,errors=continue"},
		{id: 37, parent: 35, device: 9, root: "/", point: "/a b\t\\\nc", readOnly: true, fsType: "fuse.sshfs", source: "u@h:/x y", options: "rw,user_id=0"},
		{id: 38, parent: 35, device: 10, root: "/", point: "/d\xff", fsType: "overlay", source: "overlay", options: "rw,lowerdir=" + long},
	}
	// What is left out is told of, once.
	var log strings.Builder
	odd := &oddities{log: zerolog.New(&log)}
	for range 2 {
		if got := parseMounts([]byte(text), odd); !reflect.DeepEqual(got, want) {
			t.Errorf("got %.2000v", got)
		}
	}
	if n := strings.Count(log.String(), "\n"); n != 7 || !strings.Contains(log.String(), `"input":"not a mount"`) {
		t.Errorf("%d lines were logged, want 7:\n%s", n, log.String())
	}
}

// TestOdditiesAreBounded: whoever feeds us nonsense for ever fills neither the log nor
// the memory.
func TestOdditiesAreBounded(t *testing.T) {
	var log strings.Builder
	odd := &oddities{log: zerolog.New(&log)}
	for i := range 2 * maxOddities {
		odd.note("what", fmt.Sprint(i)+strings.Repeat("x", 2*oddityLength), nil)
	}
	if n := strings.Count(log.String(), "\n"); n != maxOddities || len(odd.told) != maxOddities || log.Len() > 2*maxOddities*oddityLength {
		t.Errorf("%d lines of %d bytes, %d remembered", n, log.Len(), len(odd.told))
	}
}

func TestUpperDirs(t *testing.T) {
	for _, tc := range []struct {
		options string
		want    []string
	}{
		{"rw,lowerdir=/l,upperdir=/u,workdir=/w", []string{"/u"}},
		{"rw,lowerdir=/l", nil},
		{"upperdir=", nil},
		{"", nil},
		{"rw,upperdir=u", []string{"u"}},
		{`rw,upperdir=/a\040b,workdir=/w`, []string{"/a b"}},
		{`rw,upperdir=/a\054b`, []string{"/a,b"}},                              // fsconfig
		{`rw,upperdir=/a\134\054b\134:c`, []string{"/a,b:c", `/a\,b\:c`}},      // mount(2): /a\,b\:c
		{`rw,upperdir=/a\134\134b`, []string{`/a\b`, `/a\\b`}},                 //
		{`rw,upperdir=/a\134`, []string{`/a\`, `/a\`}},                         //
		{`rw,upperdir=/a\9\40`, []string{`/a940`, `/a\9\40`}},                  // no escapes
		{`rw,xupperdir=/no,upperdir=/a\303\274`, []string{"/aü"}},              //
		{`rw,lowerdir=/l\054upperdir=/evil,upperdir=/good`, []string{"/good"}}, // a comma in a name
	} {
		if got := upperDirs(tc.options); !slices.Equal(got, tc.want) {
			t.Errorf("upperDirs(%q) = %q, want %q", tc.options, got, tc.want)
		}
	}
}

func TestMountAt(t *testing.T) {
	table := parseMounts([]byte(`1 0 0:1 / / rw - x root rw
2 1 0:2 / /a rw - x a rw
3 2 0:3 / /a/b rw - x hidden rw
4 2 0:4 / /a rw - x over-a rw
5 4 0:5 / /a/c rw - x c rw
6 1 0:6 / /ab rw - x ab rw
7 7 0:7 / /self rw - x self-parent rw
`), nil)
	for name, want := range map[string]string{
		"/": "root", "/x": "root", "/a": "over-a", "/a/b/x": "over-a", "/a/c/x": "c",
		"/ab": "ab", "/abc": "root", "/self": "root",
	} {
		if m, ok := table.at(name); !ok || m.source != want {
			t.Errorf("at(%s) = %s, %v, want %s", name, m.source, ok, want)
		}
	}
	for _, broken := range []string{
		"",
		"1 2 0:1 / / rw - x a rw\n2 1 0:1 / / rw - x b rw\n",
		"5 1 0:1 / /a rw - x a rw\n",
	} {
		if m, ok := parseMounts([]byte(broken), nil).at("/a"); ok {
			t.Errorf("%q: %+v", broken, m)
		}
	}
}

func TestLocate(t *testing.T) {
	table := parseMounts([]byte(`1 0 0:1 / / rw - x root rw
2 1 0:2 /sub /m rw - x m rw
3 1 0:3 / /hidden rw - x h rw
4 1 0:4 / /hidden rw - x over rw
`), nil)
	for _, tc := range []struct {
		device      uint64
		inner, want string
	}{
		{1, "/x", "/x"}, {2, "/sub/x", "/m/x"}, {2, "/sub", "/m"}, {2, "/other", ""}, {9, "/x", ""},
	} {
		if got, _ := table.locate(tc.device, tc.inner); got != tc.want {
			t.Errorf("locate(%d, %s) = %q, want %q", tc.device, tc.inner, got, tc.want)
		}
	}
}

func TestContainerIDs(t *testing.T) {
	a, b := id("a"), id("b")
	for _, tc := range []struct {
		path string
		want []string
	}{
		{"/", nil},
		{"", nil},
		{"/docker/" + a, []string{a}},
		{"/acme/team/" + a, []string{a}},
		{"/sys/fs/cgroup/system.slice/docker-" + a + ".scope", []string{a}},
		{"/system.slice/docker-" + a + ".scope/init.scope", []string{a}},
		{"/docker/" + a + "/sub.slice/a.service", []string{a}},
		{"/docker/" + a + "/docker/" + b, []string{a, b}},
		{"/machine.slice/libpod-" + a + ".scope/container", []string{a}},
		{"/machine.slice/libpod-conmon-" + a + ".scope", nil},
		{"/x.slice/crio-conmon-" + a + ".scope", nil},
		{"/x.service/libpod-payload-" + a, []string{a}},
		{"/kubepods/burstable/pod1-2-3/" + a, []string{a}},
		{"/kubepods-pod1_2.slice:cri-containerd:" + a, []string{a}},
		{"/kubepods.slice/kubepods-pod1.slice/cri-containerd-" + a + ".scope", []string{a}},
		{"/lxc/name", nil},
		{"/docker/" + a[:63], nil},
		{"/docker/" + a + "a", nil},
		{"/docker/" + strings.ToUpper(a), nil},
		{"/docker/" + a + ".service", nil},
		{"/docker/x" + a, nil},
	} {
		if got := containerIDs(tc.path); !slices.Equal(got, tc.want) {
			t.Errorf("containerIDs(%s) = %v, want %v", tc.path, got, tc.want)
		}
	}
}

func TestOwnCgroup(t *testing.T) {
	a, b := id("a"), id("b")
	for _, tc := range []struct{ controller, text, want string }{
		{"", "0::/docker/" + a + "\n", "/docker/" + a},
		{"", "0::/docker/" + a, "/docker/" + a},
		{"", "9:memory:/docker/" + a + "\n0::/docker/" + a + "/init.scope\n", "/docker/" + a},
		{"", "0::/system.slice/docker-" + a + ".scope/x/y\n", "/system.slice/docker-" + a + ".scope"},
		{"", "0::/docker/" + b + "/docker/" + a + "/x\n", "/docker/" + b + "/docker/" + a},
		{"", "9:memory:/docker/" + a + "\n0::/system.slice/docker.service\n", ""}, // shared with the daemon
		{"", "9:memory:/docker/" + a + "\n0::/\n", ""},
		{"", "9:memory:/docker/" + a + "\n", ""},
		{"", "1:name=systemd:/docker/" + a + "\n0::/\n", ""},
		{"", "0::/../docker/" + a + "\n", ""},
		{"", "", ""},
		{"memory", "9:memory:/docker/" + a + "/init.scope\n0::/system.slice/docker.service\n", "/docker/" + a},
		{"cpu", "9:memory:/x\n4:cpu,cpuacct:/docker/" + a + "\n", "/docker/" + a},
		{"cpuset", "4:cpu,cpuacct:/docker/" + a + "\n", ""},
		{"memory", "9:memory:/\n0::/docker/" + a + "\n", ""},
	} {
		if got := (hierarchy{controller: tc.controller}).own([]byte(tc.text), a); got != tc.want {
			t.Errorf("%s of %q: %q, want %q", tc.controller, tc.text, got, tc.want)
		}
	}
}

func TestFindHierarchy(t *testing.T) {
	const (
		root    = "1 1 254:0 / / rw - ext4 /dev/vda rw\n"
		v2      = "2 1 0:23 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n"
		tmpfs   = "3 1 0:24 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
		unified = "4 3 0:23 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
		systemd = "5 3 0:25 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n"
		cpu     = "6 3 0:26 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
		pids    = "7 3 0:27 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n"
		memory  = "8 3 0:28 /lxc/x /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
		vpn     = "9 1 0:29 / /net_cls rw - cgroup cgroup rw,net_cls\n"
		hidden  = "10 3 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n11 10 0:31 / /sys/fs/cgroup/memory ro - tmpfs tmpfs ro\n"
	)
	for _, tc := range []struct {
		table string
		want  hierarchy
	}{
		{root, hierarchy{}},
		{root + v2, hierarchy{"", "/sys/fs/cgroup", "/"}},
		{root + v2 + vpn, hierarchy{"", "/sys/fs/cgroup", "/"}},
		{root + tmpfs + unified + systemd + cpu + pids, hierarchy{"pids", "/sys/fs/cgroup/pids", "/"}},
		{root + tmpfs + systemd + cpu + pids + memory, hierarchy{"memory", "/sys/fs/cgroup/memory", "/lxc/x"}},
		{root + tmpfs + systemd + cpu, hierarchy{"cpu", "/sys/fs/cgroup/cpu,cpuacct", "/"}},
		{root + tmpfs + hidden + cpu, hierarchy{"cpu", "/sys/fs/cgroup/cpu,cpuacct", "/"}},
		{root + tmpfs + systemd, hierarchy{}},
	} {
		if got := findHierarchy(parseMounts([]byte(tc.table), nil)); got != tc.want {
			t.Errorf("%+v, want %+v in\n%s", got, tc.want, tc.table)
		}
	}
}

func TestActors(t *testing.T) {
	a, b, c := id("a"), id("b"), id("c")
	paths := map[uint64]string{
		2: "/cg/docker/" + b + "/sub",
		3: "/cg/docker/" + b + "/docker/" + c,
		4: "/cg/system.slice/docker.service",
	}
	opened := 0
	broken := error(nil)
	s := newActors(func(id uint64) (string, error) {
		opened++
		if broken != nil {
			return "", broken
		}
		name, ok := paths[id]
		if !ok {
			return "", fmt.Errorf("test: %w", unix.ESTALE)
		}
		return name, nil
	})
	known := map[string]bool{}
	isContainer := func(id string) bool { return known[id] }
	s.add(1, a)
	check := func(cgroup uint64, want string) {
		t.Helper()
		if got, ok := s.find(cgroup, isContainer); got != want || ok != (want != "") {
			t.Errorf("find(%d) = %.4q, %v, want %.4q", cgroup, got, ok, want)
		}
	}
	check(0, "")
	check(1, a)
	check(2, b)
	check(3, b) // of nested ones that nobody knows, the outer one is of this host
	check(4, "")
	check(5, "")
	known[c] = true
	check(3, c) // our runtime is the inner one
	if opened != 4 {
		t.Errorf("%d looked up, want each once", opened)
	}
	delete(paths, 2)
	check(2, b) // gone, but remembered
	broken = unix.EPERM
	check(6, "")
	broken, paths[6] = nil, "/cg/"+b
	check(6, b) // an error is no answer
	for cgroup := range uint64(2 * maxActors) {
		s.find(cgroup+1000, isContainer)
	}
	if len(s.looked) > maxActors {
		t.Errorf("%d cached", len(s.looked))
	}
	check(1, a)
}

// TestCgroupHandles asks the kernel.
func TestCgroupHandles(t *testing.T) {
	r, err := New(Config{Engine: newFakeEngine()})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if r.cgroups.root == "" {
		t.Skip("no cgroup hierarchy is mounted here")
	}
	dir := filepath.Join(r.cgroups.root, fmt.Sprintf("layertrace-test-%d", os.Getpid()))
	nested := filepath.Join(dir, id("9"), "sub.slice")
	if err := os.MkdirAll(nested, 0o755); errors.Is(err, os.ErrPermission) || errors.Is(err, unix.EROFS) {
		t.Skip("cgroups can not be made here:", err)
	} else if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(dir)
	defer os.Remove(filepath.Dir(nested))
	own, sub, host := inode(t, filepath.Dir(nested)), inode(t, nested), inode(t, dir)
	for range 2 {
		for cgroup, want := range map[uint64]string{own: id("9"), sub: id("9"), host: ""} {
			if got, ok := r.Actor(cgroup); got != want || ok != (want != "") {
				t.Errorf("Actor(%d) = %q, %v, want %q", cgroup, got, ok, want)
			}
		}
		os.Remove(nested) // the second time from memory
	}
	if _, ok := r.Actor(1 << 40); ok {
		t.Error("an actor of a cgroup that never was")
	}
}

func TestProcessAlive(t *testing.T) {
	h := newHost(t)
	r := h.resolver(newFakeEngine())
	stat := func(pid int, state string, threads, start int) {
		h.file(fmt.Sprintf("proc/%d/stat", pid), fmt.Sprintf(
			"%d (a) b ( c) %s 1 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 %d 0 %d 1000 10 18446744073709551615 1\n",
			pid, state, threads, start))
	}
	stat(10, "S", 1, 12345)
	stat(11, "Z", 1, 12345)
	stat(12, "Z", 2, 12345) // the leader ended, another thread did not
	stat(13, "X", 0, 12345)
	h.file("proc/14/stat", "14 (x")
	const ns = 123_450_000_000
	for _, tc := range []struct {
		pid   uint32
		start uint64
		want  bool
	}{
		{10, ns, true}, {10, ns + 9_999_999, true}, {10, 0, true}, {10, ns + 1e9, false}, {10, ns - 1e9, false},
		{10, 1, false}, {10, 1<<64 - 1, false},
		{11, ns, false}, {12, ns, true}, {13, ns, false}, {14, ns, false}, {15, 0, false},
	} {
		if got := r.ProcessAlive(tc.pid, tc.start); got != tc.want {
			t.Errorf("ProcessAlive(%d, %d) = %v", tc.pid, tc.start, got)
		}
	}
	real, err := New(Config{Engine: newFakeEngine()})
	h.must(err)
	defer real.Close()
	if !real.ProcessAlive(uint32(os.Getpid()), 0) {
		t.Error("this process is not alive")
	}
}

func TestBootClock(t *testing.T) {
	clock, err := NewBootClock()
	if err != nil {
		t.Fatal(err)
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		t.Fatal(err)
	}
	got := clock.Time(uint64(now.Nano()))
	if d := time.Since(got).Abs(); d > time.Second || got.Location() != time.UTC {
		t.Errorf("%v is off by %v", got, d)
	}
	if !clock.Time(5).Equal(clock.Time(0).Add(5)) {
		t.Error("nanoseconds are lost")
	}
	_ = clock.Time(1<<64 - 1)
}

func TestWatchMounts(t *testing.T) {
	changed := make(chan struct{}, 1)
	done := make(chan error)
	dir := t.TempDir()
	ctx := t.Context()
	go func() { done <- watchMounts(ctx, "/proc/self/mountinfo", changed) }()
	deadline := time.After(10 * time.Second)
	for seen := false; !seen; {
		// The first mounts may come before the watch stands.
		if err := unix.Mount("none", dir, "tmpfs", 0, ""); errors.Is(err, unix.EPERM) {
			t.Skip("nothing can be mounted here:", err)
		} else if err != nil {
			t.Fatal(err)
		}
		if err := unix.Unmount(dir, 0); err != nil {
			t.Fatal(err)
		}
		select {
		case <-changed:
			seen = true
		case <-time.After(10 * time.Millisecond):
		case <-deadline:
			t.Fatal("mounts were not noticed")
		}
	}
}

func FuzzParseMounts(f *testing.F) {
	for _, name := range []string{"host", "overlay2", "containerd", "vfs", "scratch"} {
		data, err := os.ReadFile("testdata/" + name + ".mountinfo")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data, "/opt/vol/x")
	}
	f.Fuzz(func(t *testing.T, data []byte, name string) {
		table := parseMounts(data, nil)
		table.at(name)
		table.locate(60, name)
		overlayOf(table, name, name)
		root, _ := table.at("/")
		d := Details{Mounts: []DeclaredMount{{Type: "bind", Source: name, Destination: name}}, Tmpfs: []string{name}}
		c := Container{OverlayDevice: root.device}
		c.Mounts = classifyMounts(declaredMounts(d), table, root, func() mountTable { return table })
		for _, m := range c.Mounts {
			if m.Class == "" || c.Classify(m.Device, m.Destination).Class == "" {
				t.Errorf("no class: %+v", m)
			}
		}
		c.RecordMounts()
	})
}

func FuzzUpperDirs(f *testing.F) {
	f.Add("rw,lowerdir=/l,upperdir=/u,workdir=/w")
	f.Add(`rw,upperdir=/a\134\054b\134:c\`)
	f.Fuzz(func(t *testing.T, options string) {
		for _, upper := range upperDirs(options) {
			if upper == "" {
				t.Error("an empty upper directory")
			}
		}
		if plain := decodeOctal(options); len(plain) > len(options) {
			t.Errorf("%q grew to %q", options, plain)
		}
	})
}

func FuzzCgroupPath(f *testing.F) {
	f.Add("9:memory:/x\n0::/docker/" + id("a") + "/x.scope\n")
	f.Add("0::/system.slice/docker-" + id("a") + ".scope")
	for _, l := range layouts {
		f.Add("0::" + expand(l.path))
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, found := range containerIDs(text) {
			if len(found) != 64 || !isHex(found) || !strings.Contains(text, found) {
				t.Errorf("id %q in %q", found, text)
			}
		}
		own := hierarchy{}.own([]byte(text), id("a"))
		if own != "" && (!strings.Contains(own, id("a")) || !strings.Contains(text, own) || slices.Contains(strings.Split(own, "/"), "..")) {
			t.Errorf("cgroup %q in %q", own, text)
		}
		if own := (hierarchy{}).own([]byte(text), "default/web"); own != "" && (!strings.HasSuffix(own, "/default/web") || !strings.Contains(text, own)) {
			t.Errorf("cgroup %q in %q", own, text)
		}
	})
}

func FuzzStat(f *testing.F) {
	f.Add([]byte("1 (a) b) S 1 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 12345 1000 10 1 1\n"))
	f.Add([]byte("1 ()"))
	f.Fuzz(func(_ *testing.T, data []byte) { parseStat(data) })
}
