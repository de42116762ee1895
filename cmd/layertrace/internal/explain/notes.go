package explain

import (
	"path"
	"strings"

	"github.com/layertrace/layertrace/internal/inside"
	"github.com/layertrace/layertrace/internal/output"
	"github.com/layertrace/layertrace/internal/record"
	"github.com/layertrace/layertrace/resolver"
)

// notes adds what a person should know besides.
func (e *explainer) notes(place *inside.Place, m resolver.Mount) {
	a, c := &e.answer, &e.Container
	layer := m.Class == record.ClassLayer
	switch {
	case place.Unknown && !c.Running():
		e.note("whether it exists can not be said while the container does not run")
	case a.Origin == record.OriginWhiteout:
		e.note("the container deleted what the image has of this name; the image still holds it")
	case !place.Exists && a.ReadOnly:
		e.note("it can not be made: %s is mounted read-only", output.Printable(m.Destination))
	case !place.Exists && layer:
		e.note("it would be made in the layer, below %s", output.Printable(place.Existing))
	case !place.Exists:
		e.note("it would be made on the mount at %s, not in the layer", output.Printable(m.Destination))
	}
	if place.Exists && a.ReadOnly {
		e.note("it can not be changed from inside: %s is mounted read-only", output.Printable(m.Destination))
	}
	if a.Origin == originImage && a.Kind == "file" && !a.ReadOnly && a.Size != nil {
		e.note("the first change to it, of content, owner or mode, copies all of it into the layer: %s", output.FormatSize(*a.Size))
	}
	if a.Origin == record.OriginAdded && a.InImage {
		e.note("it takes the place of what the image has of this name")
	}
	switch {
	case m.Declared, m.Class == record.ClassOther:
	case dockersOwn(c, &m):
		e.note("Docker makes this mount for the container, for a secret or a config")
	case e.comesWith(m) != "":
		e.note("the host mounts something at %s, which the bind at %s shows as well", output.Printable(m.Destination), output.Printable(e.comesWith(m)))
	default:
		e.note("the mount at %s is no part of the container's configuration: it ends with the container's processes, or with what the host mounts", output.Printable(m.Destination))
	}
	switch e.class(m) {
	case m.Class:
	case record.ClassLayer:
		e.note("this is the container's own layer, reached past overlayfs: changes made here are not seen as they happen, and overlayfs calls them undefined")
	default:
		e.note("this is Docker's own directory of the container")
	}
	e.logNotes(place)
}

// comesWith returns the destination of the bind with which a mount of the host came
// into the container; empty if it did not come so.
func (e *explainer) comesWith(m resolver.Mount) string {
	on := e.HostPath(m)
	if on == "" {
		return ""
	}
	for _, bind := range e.Container.Mounts {
		inner, ok := strings.CutPrefix(m.Destination, strings.TrimSuffix(bind.Destination, "/")+"/")
		if ok && bind.Declared && bind.Class == record.ClassBind && on == path.Join(bind.Source, inner) {
			return bind.Destination
		}
	}
	return ""
}

// class is the mount's, unless a bind shows what Docker keeps for this very
// container: that goes with it, although it is reached on the host.
func (e *explainer) class(m resolver.Mount) string {
	c := &e.Container
	below := func(dir string) bool {
		return dir != "" && (e.host == dir || strings.HasPrefix(e.host, dir+"/"))
	}
	switch {
	case m.Class != record.ClassBind || e.host == "":
		return m.Class
	case below(c.UpperDir):
		return record.ClassLayer
	case c.LogPath != "" && (e.host == c.LogPath || strings.HasPrefix(e.host, c.LogPath+".")):
		return record.ClassLog
	case c.LogPath != "" && path.Base(path.Dir(c.LogPath)) == c.ID && below(path.Dir(c.LogPath)):
		return record.ClassDockerFile
	}
	return m.Class
}

// logNotes points to the log where it may be what is meant.
func (e *explainer) logNotes(place *inside.Place) {
	a, c := &e.answer, &e.Container
	if a.Output == nil {
		return
	}
	size := output.FormatSize(a.Output.Size)
	asked := path.Clean("/" + e.Path)
	switch {
	case asked == c.LogPath || strings.HasPrefix(asked, c.LogPath+"."):
		e.note("on the host, %s is the container's log (%s), which is not in its layer", output.Printable(asked), size)
	case place.Path == "/var/log" || strings.HasPrefix(place.Path, "/var/log/"):
		e.note("what the container writes to its standard output is not below /var/log, but in %s (%s)", output.Printable(c.LogPath), size)
	}
}
