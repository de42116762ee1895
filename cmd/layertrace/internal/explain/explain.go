package explain

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/internal/inside"
	"github.com/layertrace/layertrace/internal/layer"
	"github.com/layertrace/layertrace/internal/output"
	"github.com/layertrace/layertrace/internal/record"
	"github.com/layertrace/layertrace/resolver"
)

// Config says what is asked, and of what.
type Config struct {
	Container resolver.Container
	Path      string // taken from the container's root, whether or not it begins with a slash
	Now       time.Time
	// ProcRoot is where a proc file system of the initial pid namespace is
	// mounted; default /proc.
	ProcRoot string
	// HostPath returns where on the host a mount's content can be seen.
	HostPath func(resolver.Mount) string
}

// Explain answers. It runs nothing in the container and changes nothing.
//
// Errors are those of looking at files, among them *inside.NotDirError and
// *inside.LoopError; ErrNoLayer if the runtime does not tell enough.
func Explain(ctx context.Context, cfg Config) (*Answer, error) {
	if cfg.ProcRoot == "" {
		cfg.ProcRoot = "/proc"
	}
	c := &cfg.Container
	e := explainer{Config: cfg, layers: inside.Layers{Upper: c.UpperDir, Lowers: c.LowerDirs}}
	if c.HoldsImage() {
		e.layers.Upper = "" // the image's files are in that directory too
	}
	if c.UpperInode == 0 {
		// What the image holds says nothing without the layer over it.
		e.layers = inside.Layers{}
	}
	place, m, err := e.find()
	if err != nil {
		return nil, err
	}
	defer place.Close()

	a := &e.answer
	*a = Answer{
		Type: TypeExplanation, V: record.Version, Time: record.At(cfg.Now),
		Container: c.Record(), State: string(c.State), Links: []Link{}, Notes: []string{},
	}
	a.Path, a.PathB64 = record.Text(cfg.Path)
	for _, l := range place.Links {
		var link Link
		link.Path, link.PathB64 = record.Text(l.Path)
		link.Target, link.TargetB64 = record.Text(l.Target)
		a.Links = append(a.Links, link)
	}
	if err := e.log(place); err != nil {
		return nil, err
	}
	if place.Output != 0 {
		e.output(place)
		return a, nil
	}
	e.where(place, m)
	if m.Class == record.ClassLayer {
		err = e.inLayer(ctx, place, m)
	} else {
		err = e.covered(ctx, place, m)
	}
	if err != nil {
		return nil, err
	}
	a.HostPath, a.HostPathB64 = record.Text(e.host)
	a.Fate = fate(c, &m, e.class(m), a.Origin, a.InImage)
	if m.Class == record.ClassLayer && e.layers.Upper == "" {
		a.Fate.Recreate = Outcome{Unknown, "whether the image has it too is not known"}
	}
	e.notes(place, m)
	return a, nil
}

type explainer struct {
	Config
	layers inside.Layers
	host   string // where the bytes are on the host; empty if that is nowhere
	answer Answer
}

func (e *explainer) note(format string, args ...any) {
	e.answer.Notes = append(e.answer.Notes, fmt.Sprintf(format, args...))
}

// find follows the path and says which mount it ends on. If the container ends
// meanwhile, it is looked at as one that does not run.
func (e *explainer) find() (*inside.Place, resolver.Mount, error) {
	c := &e.Container
	if c.Running() {
		place, err := inside.Live(path.Join(e.ProcRoot, strconv.FormatUint(uint64(c.InitPID), 10)), e.Path)
		if err == nil {
			m, ok := c.MountByID(place.MountID)
			if !ok {
				m = c.MountAt(place.Existing)
			}
			if m.Class == record.ClassTmpfs && m.Source == "" {
				m.Source = e.HostPath(m) // the host may have mounted it too
			}
			return place, m, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, resolver.Mount{}, err
		}
	}
	declared := c.DeclaredMounts()
	mounts := make([]inside.Mount, len(declared))
	for i, m := range declared {
		mounts[i] = inside.Mount{
			Destination: m.Destination, Source: m.Source,
			Empty: m.Class == record.ClassTmpfs || m.Class == record.ClassOther,
		}
	}
	still, err := inside.NewStill(e.layers, mounts)
	if err != nil {
		return nil, resolver.Mount{}, err
	}
	place, err := still.Find(e.Path)
	if err != nil {
		return nil, resolver.Mount{}, err
	}
	m := resolver.Mount{Class: record.ClassLayer, Destination: "/", Declared: true, ReadOnly: c.ReadOnlyRoot}
	if place.Mount >= 0 {
		m = declared[place.Mount]
		m.Destination = still.Destination(place.Mount)
	}
	return place, m, nil
}

// where fills in what is the same for all storage.
func (e *explainer) where(place *inside.Place, m resolver.Mount) {
	a := &e.answer
	a.Resolved, a.ResolvedB64 = record.Text(place.Path)
	if !place.Unknown {
		exists := place.Exists
		a.Exists = &exists
	}
	if !place.Exists {
		a.Parent, a.ParentB64 = record.Text(place.Existing)
	} else {
		a.Kind = kind(place.Stat.Mode)
	}
	a.Storage = record.Storage{Class: m.Class}
	if m.Class != record.ClassLayer {
		a.Storage = record.NewStorage(m.Class, m.Destination, m.Source, m.Name)
	}
	if m.Destination != "/" {
		a.Mount = &Mount{FSType: m.FSType, Declared: m.Declared, Anonymous: m.Anonymous}
	}
	a.ReadOnly = m.ReadOnly
}

func kind(mode uint32) string {
	switch mode & unix.S_IFMT {
	case unix.S_IFDIR, 0: // 0: a directory that the runtime makes for a mount
		return "directory"
	case unix.S_IFREG:
		return "file"
	case unix.S_IFLNK:
		return "symlink"
	case unix.S_IFIFO:
		return "fifo"
	case unix.S_IFSOCK:
		return "socket"
	}
	return "device"
}

// inLayer says what the layer and the image hold of the path.
func (e *explainer) inLayer(ctx context.Context, place *inside.Place, m resolver.Mount) error {
	a := &e.answer
	// A bind of a directory of the layer shows it under another name.
	inner := path.Join("/", m.Root, strings.TrimPrefix(place.Path, m.Destination))
	if m.Destination == "/" {
		inner = place.Path
	} else {
		e.note("a bind mount shows %s of the layer here", inner)
	}
	if e.layers.Upper == "" {
		e.sizes(place)
		if on := e.HostPath(m); on != "" && m.FSType != "overlay" {
			e.host = path.Join(on, inner) // another storage driver's
		}
		if e.Container.HoldsImage() {
			e.note("the layer's directory is not known: with the storage driver %s no directory holds the layer alone", e.Container.Driver)
		} else if e.Container.LayerErr != nil {
			e.note("the layer's directory is not known: %v", e.Container.LayerErr)
		}
		return nil
	}
	found, err := e.layers.Find(inner)
	if err != nil {
		return err
	}
	a.InImage = found.InImage
	e.host = path.Join(e.layers.Upper, inner)
	switch {
	case found.Whiteout && !found.Exists:
		a.Origin = record.OriginWhiteout
	case !place.Exists:
		return nil
	case !found.InLayer:
		a.Origin, e.host = originImage, found.Host // empty if it is not known in which layer of it
	case found.Stat.Mode&unix.S_IFMT == unix.S_IFDIR:
		a.Origin = record.OriginDirectory
	case found.CopiedUp:
		a.Origin = record.OriginCopiedUp
	default:
		a.Origin = record.OriginAdded
	}
	if !place.Exists {
		return nil
	}
	if a.Origin == originImage {
		e.sizes(place)
	} else {
		e.setSizes(&found.Stat)
	}
	if a.Kind != "directory" {
		return nil
	}
	a.Tree = &Tree{}
	if a.Origin == record.OriginDirectory {
		return e.measure(ctx, e.host)
	}
	return nil
}

// covered says how large something is that lies on a mount.
func (e *explainer) covered(ctx context.Context, place *inside.Place, m resolver.Mount) error {
	a := &e.answer
	if on := e.HostPath(m); on != "" && m.Class != record.ClassOther {
		e.host = path.Join(on, strings.TrimPrefix(place.Path, m.Destination))
	}
	if !place.Exists {
		return nil
	}
	e.sizes(place)
	if err := e.beneath(ctx, place); err != nil {
		return err
	}
	if a.Kind != "directory" || m.Class == record.ClassOther || place.Name() == "" {
		return nil
	}
	// What the container has mounted below, often on the same file system, is in the
	// way inside of it and not on the host.
	var st unix.Stat_t
	if e.host != "" && unix.Stat(e.host, &st) == nil && st.Ino == place.Stat.Ino && st.Dev == place.Stat.Dev {
		return e.measure(ctx, e.host)
	}
	return e.measure(ctx, place.Name()+"/")
}

// beneath tells of what the layer holds under the same name as something on a
// mount: nobody sees it, but it takes its place on the disk.
func (e *explainer) beneath(ctx context.Context, place *inside.Place) error {
	if e.layers.Upper == "" {
		return nil
	}
	found, err := e.layers.Find(place.Path)
	if err != nil || !found.InLayer {
		return err
	}
	size := found.Stat.Size
	switch found.Stat.Mode & unix.S_IFMT {
	case unix.S_IFREG:
	case unix.S_IFDIR:
		totals, err := layer.Measure(ctx, found.Host)
		if err != nil {
			return err
		}
		size = totals.Size
	default:
		size = 0
	}
	if size > 0 {
		e.note("the mount hides what the layer holds of this name: %s", output.FormatSize(size))
	}
	return nil
}

// sizes takes the sizes of what was found, if it could be looked at.
func (e *explainer) sizes(place *inside.Place) {
	if place.Exists && place.Stat.Ino != 0 {
		e.setSizes(&place.Stat)
	}
}

// setSizes notes sizes as the stream does: a directory counts no size.
func (e *explainer) setSizes(st *unix.Stat_t) {
	size, allocated := st.Size, st.Blocks*512
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		size = 0
	}
	e.answer.Size, e.answer.Allocated = &size, &allocated
}

// measure adds up a directory, without what is mounted below it.
func (e *explainer) measure(ctx context.Context, dir string) error {
	v := measurer{}
	if err := layer.Walk(ctx, dir, &v); err != nil {
		return err
	}
	e.answer.Tree = &Tree{
		Size: v.tally.Size, Allocated: v.tally.Allocated,
		Files: v.tally.Files, Directories: v.tally.Dirs, Whiteouts: v.tally.Whiteouts,
	}
	return nil
}

type measurer struct {
	tally layer.Tally
	dev   uint64
}

func (m *measurer) Visit(entry *layer.Entry) error {
	if entry.Name == "" {
		m.dev = entry.Dev
	}
	if entry.Dev != m.dev {
		if entry.Dir() {
			return layer.SkipDir
		}
		return nil
	}
	m.tally.Add(entry)
	return nil
}

// log measures the container's log. The path may be that of the log on the host,
// which people take for one in the container.
func (e *explainer) log(place *inside.Place) error {
	c := &e.Container
	if c.LogPath == "" {
		return nil
	}
	sizes, err := resolver.NewLogMeter(c.LogPath).Measure(true)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	l := &Log{Driver: c.LogDriver, Files: int64(sizes.Files), Size: sizes.Size, Allocated: sizes.Allocated}
	l.Path, l.PathB64 = record.Text(c.LogPath)
	e.answer.Output = l
	return nil
}

// output answers for a path that leads to the standard output or error.
func (e *explainer) output(place *inside.Place) {
	a, c := &e.answer, &e.Container
	stream := map[int]string{1: "stdout", 2: "stderr"}[place.Output]
	exists := true
	a.Resolved, a.Exists, a.Kind = "/dev/"+stream, &exists, "device"
	a.Storage = record.Storage{Class: record.ClassLog}
	a.Fate = fate(c, nil, record.ClassLog, "", false)
	if a.Output == nil && (c.LogDriver == "json-file" || c.LogDriver == "local") {
		e.note("what is written here will go to the container's %s, which Docker keeps in its log, not in the layer; there is none before the container has run", stream)
		return
	}
	if a.Output == nil {
		driver := c.LogDriver
		if driver == "" {
			driver = "unknown"
		}
		a.Fate = everywhere(Unknown, "the log driver "+driver+" keeps it in no file of this host that layertrace knows")
		e.note("what is written here goes to the container's %s, not into its layer", stream)
		return
	}
	a.Storage = record.NewStorage(record.ClassLog, "", c.LogPath, "")
	a.HostPath, a.HostPathB64 = record.Text(c.LogPath)
	a.Size, a.Allocated = &a.Output.Size, &a.Output.Allocated
	e.note("what is written here goes to the container's %s: Docker keeps it in its log, on the host's disk but not in the layer; docker run --log-opt max-size=10m bounds it", stream)
}
