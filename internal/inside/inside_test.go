package inside

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// scene is a container's root in a directory of the test, and beside it what must
// not be reached.
type scene struct {
	*testing.T
	dir, root, process string
}

func newScene(t *testing.T) *scene {
	t.Helper()
	dir := t.TempDir()
	s := &scene{t, dir, filepath.Join(dir, "root"), filepath.Join(dir, "process")}
	s.mkdir("root")
	s.mkdir("process")
	s.must(os.Symlink(s.root, filepath.Join(s.process, "root")))
	return s
}

func (s *scene) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *scene) mkdir(name string) {
	s.Helper()
	s.must(os.MkdirAll(filepath.Join(s.dir, name), 0o755))
}

func (s *scene) write(name string, size int) {
	s.Helper()
	s.mkdir(path.Dir(name))
	s.must(os.WriteFile(filepath.Join(s.dir, name), make([]byte, size), 0o644))
}

func (s *scene) link(name, target string) {
	s.Helper()
	s.mkdir(path.Dir(name))
	s.must(os.Symlink(target, filepath.Join(s.dir, name)))
}

// describe is a place in few words.
func describe(p *Place, err error) string {
	if err != nil {
		return "error: " + err.Error()
	}
	defer p.Close()
	switch {
	case p.Output != 0:
		return fmt.Sprintf("output %d", p.Output)
	case p.Unknown:
		return p.Existing + " unknown " + p.Path
	case !p.Exists:
		return p.Existing + " would hold " + p.Path
	}
	return p.Path
}

func TestLive(t *testing.T) {
	s := newScene(t)
	s.write("secret", 1)
	s.write("root/etc/passwd", 10)
	s.mkdir("root/var/lib")
	s.mkdir("root/run/b")
	s.link("root/var/run", "/run")
	s.link("root/up", "../../../../secret")
	s.link("root/abs", s.dir+"/secret")
	s.link("root/rel", "var/lib/../run/./b")
	s.link("root/loop", "loop2")
	s.link("root/loop2", "/loop")
	s.link("root/dangling", "run/none/../b/new")
	s.link("root/log", "/proc/self/fd/1")
	s.link("root/fd", "/proc/1/fd")
	for name, want := range map[string]string{
		"/":                      "/",
		"":                       "/",
		"../../..":               "/",
		"etc/passwd":             "/etc/passwd",
		"//etc/./passwd/":        "/etc/passwd",
		"/etc/../etc/passwd":     "/etc/passwd",
		"/var/run/b":             "/run/b",
		"/var/run/../etc/passwd": "/etc/passwd", // as the kernel does, not as text
		"/rel":                   "/run/b",
		"/rel/x/y":               "/run/b would hold /run/b/x/y",
		"/up":                    "/ would hold /secret",
		"/abs":                   "/ would hold " + s.dir + "/secret",
		"/dangling":              "/run/b would hold /run/b/new",
		"/none/../etc/passwd":    "/etc/passwd",
		"/none/a/../b":           "/ would hold /none/b",
		"/etc/passwd/x":          "error: /etc/passwd is no directory",
		"/etc/passwd/..":         "error: /etc/passwd is no directory",
		"/loop":                  "error: /loop leads through too many symlinks",
		strings.Repeat("x", 300): "error: looking at /" + strings.Repeat("x", 300) + ": file name too long",
	} {
		if got := describe(Live(s.process, name)); got != want {
			t.Errorf("%q: %s, want %s", name, got, want)
		}
	}

	p, err := Live(s.process, "/var/run/b")
	s.must(err)
	if len(p.Links) != 1 || p.Links[0] != (Link{"/var/run", "/run"}) || p.Stat.Mode&unix.S_IFMT != unix.S_IFDIR || p.MountID == 0 || p.Mount != -1 {
		t.Errorf("%+v", p)
	}
	var st unix.Stat_t
	s.must(unix.Stat(p.Name()+"/", &st))
	if st.Ino != p.Stat.Ino {
		t.Error("another file is there")
	}
	p.Close()
	p.Close()

	// The first process's standard output.
	s.mkdir("process/fd")
	s.link("process/fd/1", "pipe:[123]")
	s.link("process/fd/2", "/etc/passwd")
	for name, want := range map[string]string{"/log": "output 1", "/fd/1": "output 1", "/fd/2": "/etc/passwd", "/proc/self/fd/1": "output 1"} {
		if got := describe(Live(s.process, name)); got != want {
			t.Errorf("%q: %s, want %s", name, got, want)
		}
	}
	s.must(os.Remove(filepath.Join(s.process, "fd/1")))
	s.link("process/fd/1", "/dev/pts/0")
	if got := describe(Live(s.process, "/log")); got != "output 1" {
		t.Errorf("on a terminal: %s", got)
	}
	if _, err := Live(filepath.Join(s.dir, "gone"), "/"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the process is gone: %v", err)
	}
}

// TestLiveProc goes through a real proc file system.
func TestLiveProc(t *testing.T) {
	self := fmt.Sprintf("/proc/%d", os.Getpid())
	for name, want := range map[string]string{
		"/proc/self/mountinfo": "/proc/1/mountinfo", // of the first process
		"/proc/mounts":         "/proc/1/mounts",
	} {
		if got := describe(Live(self, name)); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

// names of the random trees: few, so that much collides.
var few = []string{"a", "b", "c", "..", ".", "/", "//", "a/b", "../c", "/a", "/b/../c", "../../..", "b/", "/secret", "../secret"}

// TestLiveAsTheKernel compares with what the kernel finds below a root that it does
// not leave, in random trees of symlinks.
func TestLiveAsTheKernel(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	pick := func() string { return few[random.IntN(len(few))] }
	found, missed := 0, 0
	for range 300 {
		s := newScene(t)
		s.write("secret", 1)
		for range 12 {
			name := filepath.Join(s.root, filepath.Clean("/"+pick()+"/"+pick()))
			if os.MkdirAll(filepath.Dir(name), 0o755) != nil {
				continue
			}
			switch random.IntN(3) {
			case 0:
				_ = os.Mkdir(name, 0o755)
			case 1:
				_ = os.WriteFile(name, nil, 0o644)
			case 2:
				_ = os.Symlink(pick()+pick(), name)
			}
		}
		for range 20 {
			ok := compare(t, s, pick()+"/"+pick()+"/"+pick())
			if ok {
				found++
			} else {
				missed++
			}
		}
	}
	if found < 500 || missed < 500 {
		t.Errorf("this test is wrong: %d paths exist, %d do not", found, missed)
	}
}

// compare reports whether the path exists.
func compare(t *testing.T, s *scene, name string) bool {
	t.Helper()
	root, err := unix.Open(s.root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	s.must(err)
	defer unix.Close(root)
	fd, kernelErr := unix.Openat2(root, name, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT})
	if errors.Is(kernelErr, unix.ENOSYS) {
		t.Skip("no openat2 here:", kernelErr)
	}
	p, err := Live(s.process, name)
	var notDir *NotDirError
	var loop *LoopError
	switch {
	case kernelErr == nil:
		defer unix.Close(fd)
		var st unix.Stat_t
		s.must(unix.Fstat(fd, &st))
		if err != nil || !p.Exists || p.Stat.Ino != st.Ino {
			t.Errorf("%q in %s: %s, the kernel finds inode %d", name, s.root, describe(p, err), st.Ino)
			return true
		}
		p.Close()
		return true
	case errors.Is(kernelErr, unix.ENOENT):
		// We go on where the kernel gives up, with what would be there.
		if err == nil {
			p.Close()
		} else if !errors.As(err, &notDir) && !errors.As(err, &loop) {
			t.Errorf("%q in %s: %v, the kernel finds nothing", name, s.root, err)
		}
	case errors.Is(kernelErr, unix.ENOTDIR):
		// A slash behind a file's name does not matter here.
		if err == nil {
			if p.Stat.Mode&unix.S_IFMT == unix.S_IFDIR && p.Exists {
				t.Errorf("%q in %s: %s, the kernel finds no directory", name, s.root, describe(p, err))
			}
			p.Close()
		}
	case errors.Is(kernelErr, unix.ELOOP):
		if !errors.As(err, &loop) {
			t.Errorf("%q in %s: %s, the kernel finds a loop", name, s.root, describe(p, err))
		}
	default:
		s.must(kernelErr)
	}
	return false
}

func FuzzLive(f *testing.F) {
	f.Add("a/b", "/b", "../../secret", "/a/b/../c")
	f.Add("x", "y/../../..", "//", "x/../x/.")
	f.Fuzz(func(t *testing.T, at, target, other, name string) {
		if strings.ContainsRune(at+target+other+name, 0) || len(at+target+other+name) > 200 || name == "" {
			return // no path
		}
		s := newScene(t)
		s.write("secret", 1)
		for i, target := range []string{target, other} {
			link := filepath.Join(s.root, filepath.Clean("/"+at+[]string{"", "/x"}[i]))
			if link != s.root && os.MkdirAll(filepath.Dir(link), 0o755) == nil {
				_ = os.Symlink(target, link)
			}
		}
		p, err := Live(s.process, name)
		if err != nil {
			return
		}
		defer p.Close()
		var secret unix.Stat_t
		s.must(unix.Stat(filepath.Join(s.dir, "secret"), &secret))
		if p.Stat.Ino == secret.Ino || !strings.HasPrefix(p.Path, "/") {
			t.Errorf("%+v", p)
		}
		compare(t, s, name)
	})
}
