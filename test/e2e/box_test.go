//go:build linux

package e2e

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/test/workload/proto"
)

// box is a running container whose first process runs other processes on
// request. It has a named volume at /data, a tmpfs at /run and a bind mount at
// /ctl, through which the requests come: none of that is in its layer.
type box struct {
	id, name string
	docker   *dockerAPI // whose container it is; nil for that of all tests
	upper    string     // the layer on disk
	pid      int        // of its first process
	ctl      string     // the host's side of /ctl
	volume   string
	// before is the layer as it was before the test did anything; nil if the
	// test did not keep it.
	before *layerWalk
	// plain: no overlay is above the layer, so Docker's size is another one.
	plain bool
	// fuse: one process does all that is done in the layer, so coverage is partial.
	fuse bool
	// longPaths: the layer holds paths that are longer than a system call takes.
	longPaths bool
}

var boxCount atomic.Int32

// boxOptions say what is unusual about a container.
type boxOptions struct {
	// boot are operations that the first process runs whenever it starts.
	boot       []string
	image      string // default imageName
	docker     *dockerAPI
	binds      []string // further ones
	privileged bool
	owner      *account // who is root in the container; nil for root
	// adjust changes what Docker is asked for.
	adjust func(config, host map[string]any)
}

// newBox starts a container.
func newBox(t *testing.T, boot ...string) *box {
	t.Helper()
	return newBoxWith(t, boxOptions{boot: boot})
}

func newBoxWith(t *testing.T, o boxOptions) *box {
	t.Helper()
	n := boxCount.Add(1)
	base := strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(t.Name()))
	b := &box{docker: o.docker, name: fmt.Sprintf("e2e-%d-%s", n, base), ctl: filepath.Join(env.dir, fmt.Sprintf("ctl%d", n))}
	b.volume = b.name + "-data"
	if err := os.Mkdir(b.ctl, 0o755); err != nil {
		t.Fatal(err)
	}
	if o.owner != nil {
		o.owner.owns(t, b.ctl)
	}
	create := map[string]any{
		"Image": cmp.Or(o.image, imageName),
		"Cmd":   append([]string{"/bin/workload", "serve", "/ctl/socket", "/run"}, o.boot...),
		"HostConfig": map[string]any{
			"NetworkMode": "none",
			"Privileged":  o.privileged,
			"Binds":       append([]string{b.volume + ":/data", b.ctl + ":/ctl"}, o.binds...),
			"Tmpfs":       map[string]string{"/run": "exec,mode=755"},
			// Docker's default profile forbids io_uring since 25.0.
			"SecurityOpt": []string{"seccomp=unconfined"},
		},
	}
	if o.owner == nil { // who is not root may not
		// On 5.10 that is 64 KiB, and io_uring's buffers count.
		create["HostConfig"].(map[string]any)["Ulimits"] = []map[string]any{{"Name": "memlock", "Soft": -1, "Hard": -1}}
	}
	if o.adjust != nil {
		o.adjust(create, create["HostConfig"].(map[string]any))
	}
	var created struct {
		ID string `json:"Id"`
	}
	b.api().must(t, "POST", "/containers/create?name="+b.name, create, &created)
	b.id = created.ID
	t.Cleanup(func() {
		if err := b.api().do("DELETE", "/containers/"+b.id+"?force=1", nil, nil); err != nil && !strings.Contains(err.Error(), "No such container") {
			t.Errorf("removing container %s: %v", b.name, err)
		}
		if err := b.api().do("DELETE", "/volumes/"+b.volume, nil, nil); err != nil {
			t.Errorf("removing volume %s: %v", b.volume, err)
		}
	})
	b.start(t)
	if !b.exactDisk(t) {
		t.Log("size only: this kernel does not let allocated bytes be read on this file system") // test/matrix shows it
	}
	return b
}

// api is the daemon that has the container.
func (b *box) api() *dockerAPI { return cmp.Or(b.docker, env.docker) }

// start starts the container, for the first time or again, and waits until it
// takes requests.
func (b *box) start(t *testing.T) {
	t.Helper()
	b.api().must(t, "POST", "/containers/"+b.id+"/start", nil, nil)
	got := b.api().inspect(t, b.id, false)
	b.pid = got.State.Pid
	if name := got.GraphDriver.Name; name == "vfs" || name == "btrfs" {
		// Its root is the layer: the mount table tells where that is on the host.
		b.upper = rootOnHost(t, b.pid)
	} else {
		b.upper, _ = got.place(t)
	}
	eventually(t, 60*time.Second, "the container takes requests", func() error {
		c, err := net.Dial("unix", filepath.Join(b.ctl, "socket"))
		if err != nil {
			return err
		}
		return c.Close()
	})
}

// rootOnHost is the directory of the host that a process has for its root.
func rootOnHost(t *testing.T, pid int) string {
	t.Helper()
	find := func(file, point string) (device, root string) {
		table, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(table)) {
			if f := strings.Fields(line); f[4] == point {
				device, root = f[2], f[3]
			}
		}
		return device, root
	}
	device, root := find(fmt.Sprintf("/proc/%d/mountinfo", pid), "/")
	if on, _ := find("/proc/self/mountinfo", "/scratch"); on != device {
		t.Fatalf("the root of process %d is on device %s, /scratch is %s", pid, device, on)
	}
	return "/scratch" + root
}

// eventually polls until fn returns nil.
func eventually(t *testing.T, limit time.Duration, what string, fn func() error) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		err := fn()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s: %v", limit, what, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// proc is a process in a box, or in no container at all.
type proc struct {
	name  string
	lines *bufio.Scanner
	in    interface{ Write([]byte) (int, error) }
	close func() error
	limit func(time.Time) error
	// exit is set once the process has ended.
	exit *proto.Exit
	text []string
}

const procLimit = 90 * time.Second

func scanner(r interface{ Read([]byte) (int, error) }) *bufio.Scanner {
	s := bufio.NewScanner(r)
	s.Buffer(nil, 1<<20)
	return s
}

// spawn starts a process called name that runs the workload program.
func (b *box) spawn(t *testing.T, name string, args ...string) *proc {
	t.Helper()
	return b.request(t, name, "", args...)
}

func (b *box) request(t *testing.T, name, exe string, args ...string) *proc {
	t.Helper()
	if len(name) > 15 {
		t.Fatalf("a process's name has at most 15 bytes: %q", name)
	}
	conn, err := net.Dial("unix", filepath.Join(b.ctl, "socket"))
	if err != nil {
		t.Fatalf("container %s does not take requests: %v", b.name, err)
	}
	req := proto.Request{Name: []byte(name), Exe: exe}
	for _, a := range args {
		req.Args = append(req.Args, []byte(a))
	}
	line, err := json.Marshal(req)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(append(line, '\n')); err != nil {
		t.Fatalf("container %s: %v", b.name, err)
	}
	p := &proc{name: name, lines: scanner(conn), in: conn, close: conn.Close, limit: conn.SetReadDeadline}
	if name == "" {
		p.name = exe
	}
	t.Cleanup(func() { _ = conn.Close() })
	return p
}

// read returns the process's next result; nil once it has ended.
func (p *proc) read(t *testing.T) *proto.Result {
	t.Helper()
	if err := p.limit(time.Now().Add(procLimit)); err != nil {
		t.Fatal(err)
	}
	for p.exit == nil {
		if !p.lines.Scan() {
			t.Fatalf("process %s: its connection ended before it did: %v; so far it said %q", p.name, p.lines.Err(), p.text)
		}
		switch l := proto.ParseLine(p.lines.Bytes()); {
		case l.Result != nil:
			return l.Result
		case l.Exit != nil:
			p.exit = l.Exit
		default:
			p.text = append(p.text, l.Text)
		}
	}
	return nil
}

// until returns the results up to and without the one of op.
func (p *proc) until(t *testing.T, op string) []proto.Result {
	t.Helper()
	var all []proto.Result
	for {
		r := p.read(t)
		if r == nil {
			t.Fatalf("process %s ended before %q: %+v", p.name, op, *p.exit)
		}
		if r.Op == op {
			return all
		}
		all = append(all, *r)
	}
}

// resume lets a process go on that waits.
func (p *proc) resume(t *testing.T) {
	t.Helper()
	if _, err := p.in.Write([]byte("\n")); err != nil {
		t.Fatalf("process %s: %v", p.name, err)
	}
}

// finish reads to the process's end, which must be a good one.
func (p *proc) finish(t *testing.T) []proto.Result {
	t.Helper()
	var all []proto.Result
	for r := p.read(t); r != nil; r = p.read(t) {
		all = append(all, *r)
	}
	if p.exit.Code != 0 {
		t.Fatalf("process %s failed: %+v; it said %q", p.name, *p.exit, p.text)
	}
	_ = p.close()
	return all
}

// kill kills a process, whose pid the host knows as that, and waits for its end.
func (p *proc) kill(t *testing.T, pid int) {
	t.Helper()
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatalf("killing process %s: %v", p.name, err)
	}
	for p.read(t) != nil {
	}
	if p.exit.Signal == "" {
		t.Errorf("process %s was to be killed, but ended by itself: %+v", p.name, *p.exit)
	}
	_ = p.close()
}

// run runs the workload program as name and returns what each operation did.
func (b *box) run(t *testing.T, name string, args ...string) []proto.Result {
	t.Helper()
	return b.spawn(t, name, args...).finish(t)
}

// tool runs another program of the image, by its own name.
func (b *box) tool(t *testing.T, exe string, args ...string) string {
	t.Helper()
	p := b.request(t, "", exe, args...)
	p.finish(t)
	return strings.Join(p.text, "\n")
}

// hostRun runs the workload program outside of any container, called name.
func hostRun(t *testing.T, name string, args ...string) []proto.Result {
	t.Helper()
	link := filepath.Join(t.TempDir(), name)
	if err := os.Symlink(env.workload, link); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), link, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, stderr.Bytes())
	}
	var all []proto.Result
	for line := range bytes.Lines(out) {
		if l := proto.ParseLine(line); l.Result != nil {
			all = append(all, *l.Result)
		}
	}
	return all
}

// inside is the host's view of a path in the container.
func (b *box) inside(path string) string {
	return fmt.Sprintf("/proc/%d/root%s", b.pid, path)
}

// hostPID finds the container's process of that name, as the host counts pids.
func (b *box) hostPID(t *testing.T, name string) int {
	t.Helper()
	ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", b.pid))
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	var found []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		comm, err := os.ReadFile(filepath.Join("/proc", e.Name(), "comm"))
		if err != nil || strings.TrimSuffix(string(comm), "\n") != name {
			continue
		}
		if got, err := os.Readlink(filepath.Join("/proc", e.Name(), "ns/pid")); err == nil && got == ns {
			found = append(found, pid)
		}
	}
	if len(found) != 1 {
		t.Fatalf("processes called %q in container %s: %v, want exactly one", name, b.name, found)
	}
	return found[0]
}

// inode is one inode of a layer on disk.
type inode struct {
	size, disk int64
	mode       uint32
	paths      []string // as in the container
	whiteout   bool
	// born tells it from others that have had its number; zero where the file system
	// does not keep it, which is tmpfs, whose numbers do not come again.
	born unix.StatxTimestamp
}

// layerWalk is a layer on disk at one moment.
type layerWalk struct {
	size, disk int64 // by the rules of overlay2 and of du
	inodes     map[uint64]*inode
}

// walkLayer reads a layer's tree. It goes by descriptors, so that paths may be
// longer than the kernel takes in one piece.
func walkLayer(t *testing.T, upper string) *layerWalk {
	t.Helper()
	fd, err := unix.Open(upper, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("opening the layer %s: %v", upper, err)
	}
	w := &layerWalk{inodes: map[uint64]*inode{}}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		t.Fatal(err)
	}
	w.add(&st, unix.StatxTimestamp{}, "/")
	if err := w.directory(fd, ""); err != nil {
		t.Fatalf("walking the layer %s: %v", upper, err)
	}
	return w
}

func (w *layerWalk) add(st *unix.Stat_t, born unix.StatxTimestamp, path string) {
	if known := w.inodes[st.Ino]; known != nil {
		known.paths = append(known.paths, path)
		return
	}
	n := &inode{size: st.Size, disk: st.Blocks * 512, mode: st.Mode, paths: []string{path}, born: born}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		n.size = 0
	}
	n.whiteout = st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
	w.inodes[st.Ino] = n
	w.size += n.size
	w.disk += n.disk
}

// directory adds what is below the open directory fd, which it closes.
func (w *layerWalk) directory(fd int, path string) error {
	d := os.NewFile(uintptr(fd), path)
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, name := range names {
		var st unix.Stat_t
		if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return fmt.Errorf("%s/%s: %w", path, name, err)
		}
		var more unix.Statx_t
		if err := unix.Statx(fd, name, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BTIME, &more); err != nil {
			return fmt.Errorf("%s/%s: %w", path, name, err)
		}
		w.add(&st, more.Btime, path+"/"+name)
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			sub, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
			if err != nil {
				return fmt.Errorf("%s/%s: %w", path, name, err)
			}
			if err := w.directory(sub, path+"/"+name); err != nil {
				return err
			}
		}
	}
	return nil
}

// find returns the inode at a path of the container that is in the layer.
func (w *layerWalk) find(path string) (uint64, *inode) {
	for number, n := range w.inodes {
		if slices.Contains(n.paths, path) {
			return number, n
		}
	}
	return 0, nil
}

// du is what du says, the program.
func du(t *testing.T, upper string) int64 {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "du", "-s", "--block-size=1", upper).Output()
	if err != nil {
		t.Fatalf("du %s: %v", upper, err)
	}
	text, _, _ := strings.Cut(string(out), "\t")
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		t.Fatalf("du said %q: %v", out, err)
	}
	return n
}

// settle writes everything back, after which nothing changes the layer's disk
// use by itself.
func settle(t *testing.T, upper string) {
	t.Helper()
	fd, err := unix.Open(upper, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Syncfs(fd); err != nil {
		t.Fatalf("writing back the file system of %s: %v", upper, err)
	}
}

// upperIsExt4 tells whether disk use can be predicted to the block.
func (b *box) upperIsExt4(t *testing.T) bool {
	t.Helper()
	return fileSystem(t, b.upper) == unix.EXT4_SUPER_MAGIC
}

// exactDisk tells whether all disk growth can be attributed: on xfs and btrfs the
// allocations cannot be read where modules have no BTF.
func (b *box) exactDisk(t *testing.T) bool {
	t.Helper()
	is := fileSystem(t, b.upper)
	return is != unix.XFS_SUPER_MAGIC && is != unix.BTRFS_SUPER_MAGIC || kernelAtLeast(5, 15)
}

// try runs a program of the container, for use beside other goroutines.
func (b *box) try(exe string) (*proto.Exit, error) {
	conn, err := net.Dial("unix", filepath.Join(b.ctl, "socket"))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(procLimit)); err != nil {
		return nil, err
	}
	line, err := json.Marshal(proto.Request{Exe: exe})
	if err != nil {
		return nil, err
	}
	if _, err := conn.Write(append(line, '\n')); err != nil {
		return nil, err
	}
	lines := scanner(conn)
	for lines.Scan() {
		if l := proto.ParseLine(lines.Bytes()); l.Exit != nil {
			return l.Exit, nil
		}
	}
	return nil, fmt.Errorf("the connection ended before the process: %w", lines.Err())
}
