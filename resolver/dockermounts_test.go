package resolver

import (
	"strings"
	"testing"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
)

func TestDeclaredMount(t *testing.T) {
	made := strings.Repeat("0123456789abcdef", 4) // as Docker names anonymous volumes
	asked := &container.HostConfig{
		Binds: []string{"named:/named", made + ":/user/", "/host:/bind:ro", "/anonymous"},
		Mounts: []mount.Mount{
			{Type: mount.TypeVolume, Target: "/nameless"},
			{Type: mount.TypeVolume, Source: "v", Target: "/sub", VolumeOptions: &mount.VolumeOptions{Subpath: "a/b"}},
			{Type: mount.TypeImage, Source: "tools:2", Target: "/image", ImageOptions: &mount.ImageOptions{Subpath: "usr"}},
		},
	}
	inheriting := &container.HostConfig{VolumesFrom: []string{"other"}}
	for _, tc := range []struct {
		what      string
		point     container.MountPoint
		asked     *container.HostConfig
		anonymous bool
		subpath   string
	}{
		{"by -v NAME:PATH", container.MountPoint{Type: "volume", Name: "named", Destination: "/named"}, asked, false, ""},
		{"by a user who names as Docker does", container.MountPoint{Type: "volume", Name: made, Destination: "/user"}, asked, false, ""},
		{"bind", container.MountPoint{Type: "bind", Source: "/host", Destination: "/bind"}, asked, false, ""},
		{"by -v PATH", container.MountPoint{Type: "volume", Name: made, Destination: "/anonymous"}, asked, true, ""},
		{"by VOLUME of the image", container.MountPoint{Type: "volume", Name: made, Destination: "/image-volume"}, asked, true, ""},
		{"by --mount without a source", container.MountPoint{Type: "volume", Name: made, Destination: "/nameless"}, asked, true, ""},
		{"with a subpath", container.MountPoint{Type: "volume", Name: "v", Destination: "/sub"}, asked, false, "a/b"},
		{"part of an image", container.MountPoint{Type: "image", Name: "tools:2", Destination: "/image"}, asked, false, "usr"},
		{"handed on, anonymous", container.MountPoint{Type: "volume", Name: made, Destination: "/x"}, inheriting, true, ""},
		{"handed on, named", container.MountPoint{Type: "volume", Name: "named", Destination: "/x"}, inheriting, false, ""},
		{"nothing known", container.MountPoint{Type: "volume", Name: made, Destination: "/x"}, nil, true, ""},
	} {
		got := declaredMount(tc.point, tc.asked)
		if got.Anonymous != tc.anonymous || got.Subpath != tc.subpath {
			t.Errorf("%s: %+v, want anonymous %v, subpath %q", tc.what, got, tc.anonymous, tc.subpath)
		}
	}
}

func FuzzDeclaredMount(f *testing.F) {
	f.Add("named:/d:ro", "/d", "named")
	f.Add(":/d", "/d/", "")
	f.Add("/d", "/", strings.Repeat("a", 64))
	f.Add("x:/d0", "/", "0")
	f.Fuzz(func(t *testing.T, bind, destination, name string) {
		d := declaredMount(container.MountPoint{Type: "volume", Name: name, Destination: destination},
			&container.HostConfig{Binds: []string{bind}})
		if d.Destination != destination || d.Name != name {
			t.Errorf("%+v", d)
		}
		if d.Anonymous && strings.HasPrefix(bind+":", "x:"+destination+":") && destination != "" && !strings.Contains(destination, ":") {
			t.Errorf("%q names a volume at %q", bind, destination)
		}
	})
}
