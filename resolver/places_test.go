package resolver

import (
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/layertrace/layertrace/internal/record"
)

// Mounts that a process of the container, or the host through propagation, made
// after the start.
const laterMounts = `800 700 8:17 /volumes/named/_data/part /late/volume rw,relatime - xfs /dev/sdb1 rw
801 700 254:0 /data/deep/er /late/bind rw,relatime - ext4 /dev/vda rw
802 700 8:17 /containers/aa/hosts /late/hosts rw,relatime - xfs /dev/sdb1 rw
803 700 0:60 /data/x /late/layer rw,relatime - overlay overlay rw,upperdir=/u
804 700 0:69 /sub /late/scratch rw,relatime - tmpfs tmpfs rw
805 700 0:99 / /late/tmpfs rw,relatime - tmpfs tmpfs rw
806 700 254:0 /elsewhere /late/other\040one rw,relatime - ext4 /dev/vda rw
807 700 0:80 /bin /late/image ro,relatime - overlay overlay ro,lowerdir=/l
808 708 0:98 / /opt/vol rw,relatime - tmpfs tmpfs rw
809 700 8:17 /volumes/named/_database /late/prefix rw,relatime - xfs /dev/sdb1 rw
`

func TestMountsMadeLater(t *testing.T) {
	h := newHost(t)
	d := h.overlay2()
	d.Mounts[0].Anonymous = true
	h.file("proc/4000/mountinfo", h.fixture("overlay2.mountinfo")+laterMounts)
	r := h.resolver(newFakeEngine(d))
	c, err := r.Find(t.Context(), "my-api")
	h.must(err)
	volume := h.root + "/docker/volumes/named/_data"
	for id, want := range map[int]Mount{
		800: {Class: record.ClassVolume, Destination: "/late/volume", Source: volume + "/part", Name: "named", Anonymous: true},
		801: {Class: record.ClassBind, Destination: "/late/bind", Source: "/data/deep/er"},
		802: {Class: record.ClassDockerFile, Destination: "/late/hosts", Source: d.HostsPath},
		803: {Class: record.ClassLayer, Destination: "/late/layer"},
		804: {Class: record.ClassTmpfs, Destination: "/late/scratch"},
		805: {Class: record.ClassTmpfs, Destination: "/late/tmpfs"},
		806: {Class: record.ClassBind, Destination: "/late/other one", Source: "/elsewhere"},
		807: {Class: record.ClassImageMount, Destination: "/late/image", Name: "tools:2"},
		808: {Class: record.ClassVolume, Destination: "/opt/vol", Source: volume, Name: "named", Anonymous: true},
		809: {Class: record.ClassBind, Destination: "/late/prefix", Source: h.root + "/docker/volumes/named/_database"},
		708: {Class: record.ClassVolume, Destination: "/opt/vol", Source: volume, Name: "named", Anonymous: true, Declared: true},
		700: {Class: record.ClassLayer, Destination: "/", Declared: true},
	} {
		got, ok := c.MountByID(id)
		if got.Root == "" || got.Device == 0 {
			t.Errorf("%d: %+v", id, got)
		}
		got.ID, got.Root, got.Device, got.FSType, got.ReadOnly = 0, "", 0, "", false
		if id == 808 {
			// Its device is another than the volume's: what hides a mount is not it.
			want = Mount{Class: record.ClassTmpfs, Destination: "/opt/vol"}
		}
		if !ok || got != want {
			t.Errorf("%d:\ngot  %+v\nwant %+v", id, got, want)
		}
	}
	if _, ok := c.MountByID(0); ok {
		t.Error("a mount with id 0")
	}
	for _, tc := range []struct {
		device uint64
		path   string
		want   string
	}{
		{8<<20 | 17, "/late/volume/f", "volume /late/volume named"},
		{69, "/late/scratch/f", "tmpfs /late/scratch"},
		{98, "/opt/vol/f", "tmpfs /opt/vol"},
		{8<<20 | 17, "/opt/vol/f", "volume /opt/vol named"}, // an open file below what hides it
		{60, "/late/layer/f", "layer"},
	} {
		s := c.Classify(tc.device, tc.path)
		if got := strings.Join(strings.Fields(s.Class+" "+s.Destination+" "+s.Name), " "); got != tc.want {
			t.Errorf("Classify(%d, %s) = %q, want %q", tc.device, tc.path, got, tc.want)
		}
	}
}

func TestMountsOfParts(t *testing.T) {
	h := newHost(t)
	d := h.overlay2()
	d.Mounts = append(d.Mounts,
		DeclaredMount{Type: "volume", Name: "named", Source: h.root + "/docker/volumes/named/_data", Destination: "/sub", Subpath: "a/b"},
		DeclaredMount{Type: "image", Name: "link:1", Destination: "/link/image"}) // /link is a symlink to /late
	h.file("proc/4000/mountinfo", h.fixture("overlay2.mountinfo")+
		"810 700 8:17 /volumes/named/_data/a/b /sub rw - xfs /dev/sdb1 rw\n"+
		"811 700 0:97 / /late/image ro - overlay overlay ro,lowerdir=/l\n")
	h.dir("proc/4000/root/late/image")
	h.must(os.Symlink("/late", h.root+"/proc/4000/root/link"))
	r := h.resolver(newFakeEngine(d))
	c, err := r.Find(t.Context(), "my-api")
	h.must(err)
	if m, _ := c.MountByID(810); m.Class != record.ClassVolume || m.Source != h.root+"/docker/volumes/named/_data/a/b" || !m.Declared {
		t.Errorf("volume-subpath: %+v", m)
	}
	if m, _ := c.MountByID(811); m.Class != record.ClassImageMount || m.Name != "link:1" || !m.Declared {
		t.Errorf("an image mount whose destination leads through a symlink: %+v", m)
	}
	if m, _ := c.MountByID(810); r.HostPath(m) != h.root+"/docker/volumes/named/_data/a/b" {
		t.Errorf("on the host: %s", r.HostPath(m))
	}
	if m, _ := c.MountByID(707); r.HostPath(m) != "" {
		t.Errorf("a tmpfs of the container, on the host: %s", r.HostPath(m))
	}
	if m := c.DeclaredMounts()[0]; r.HostPath(m) != m.Source {
		t.Errorf("declared: %s", r.HostPath(m))
	}
}

func TestLowerNames(t *testing.T) {
	for _, tc := range []struct {
		options string
		want    []string
	}{
		{"rw,lowerdir=/a:/b,upperdir=/u", []string{"/a", "/b"}},
		{"rw,lowerdir=l/A:l/B", []string{"l/A", "l/B"}},
		{`ro,lowerdir=/a\040b\054c:/d`, []string{"/a b,c", "/d"}},
		{`ro,lowerdir=/a\134:b:/c\134\134d`, []string{"/a:b", `/c\d`}},
		{"rw,lowerdir=/a:/b::/data1::/data2", []string{"/a", "/b"}},
		{"rw,lowerdir+=/a:b,lowerdir+=/c,datadir+=/d,upperdir=/u", []string{"/a:b", "/c"}},
		{"lowerdir=", nil},
		{"rw", nil},
		{"", nil},
	} {
		if got := lowerNames(tc.options); !slices.Equal(got, tc.want) {
			t.Errorf("lowerNames(%q) = %q, want %q", tc.options, got, tc.want)
		}
	}
}

func FuzzLowerNames(f *testing.F) {
	f.Add(`rw,lowerdir=/a\134:b:/c\134\134d\040x,upperdir=/u`)
	f.Add("lowerdir+=/a:b,lowerdir=::/x")
	f.Fuzz(func(t *testing.T, options string) {
		for _, name := range lowerNames(options) {
			if name == "" || len(name) > len(options) {
				t.Errorf("%q holds %q", options, name)
			}
		}
	})
}

// FuzzPlaces puts mounts, with names that need escapes and names of 64 hexadecimal
// digits that are no containers, into a container's table.
func FuzzPlaces(f *testing.F) {
	f.Add(`/a\040b`, `/late\134x`, "/volumes/v/_data")
	f.Add("/"+id("a"), "/"+id("b")+"/fs", "/")
	f.Add(`/a\,b\:c`, "/", `/a\054b`)
	f.Fuzz(func(t *testing.T, root, point, source string) {
		if strings.ContainsAny(root+point, " \n") || !strings.HasPrefix(point, "/") {
			return
		}
		table := parseMounts([]byte("1 0 0:60 / / rw - overlay overlay rw,upperdir=/u\n"+
			fmt.Sprintf("2 1 8:1 %s %s rw - ext4 /dev/x rw\n", root, point)), nil)
		host := parseMounts([]byte("9 0 8:1 / / rw - ext4 /dev/x rw\n"), nil)
		d := Details{Mounts: []DeclaredMount{{Type: "volume", Name: id("c"), Source: source, Destination: "/elsewhere"}}}
		mounts := classifyMounts(declaredMounts(d), table, table[0], func() mountTable { return host })
		for _, m := range mounts {
			if m.Class == record.ClassVolume && strings.HasPrefix(source, "/") && !under(path.Clean(source), m.Source) {
				t.Errorf("source %q is not below %q", m.Source, source)
			}
			if m.Class == "" || m.Class == record.ClassLayer {
				t.Errorf("%+v", m)
			}
		}
	})
}
