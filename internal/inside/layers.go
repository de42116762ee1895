package inside

import (
	"errors"
	"fmt"
	"path"

	"golang.org/x/sys/unix"
)

// Layers are the directories of which overlayfs makes a container's root: its
// writable layer and below it those of its image, topmost first.
type Layers struct {
	Upper  string // on the host; empty if it is not known
	Lowers []string
}

// Found is what the layers hold of a name.
type Found struct {
	// Exists tells that the container sees something of this name; then Host and
	// Stat are those of what it sees.
	Exists bool
	Host   string // its path on the host
	Stat   unix.Stat_t
	// InLayer tells that what it sees is in the writable layer.
	InLayer bool
	// CopiedUp tells that overlayfs copied it there from the image.
	CopiedUp bool
	// Whiteout tells that the layer holds a mark of this name, which hides what
	// the image has.
	Whiteout bool
	// InImage tells that the image has something of this name, seen or hidden.
	InImage bool

	link string // target, of a symlink
}

// Find looks a name up. It must not lead through symlinks of the container; name
// is absolute. Directories that are renamed with a redirect, which no container
// runtime asks overlayfs for, are not looked for under their former names.
func (l *Layers) Find(name string) (Found, error) {
	var f Found
	dirs := l.Lowers
	if l.Upper != "" {
		dirs = append([]string{l.Upper}, l.Lowers...)
	}
	parts := below(name)
	hidden := false // what the directories further down hold is not seen
	imageHidden := false
	for i, dir := range dirs {
		upper := i == 0 && l.Upper != ""
		if !upper && imageHidden {
			break
		}
		in, err := lookIn(dir, parts)
		if err != nil {
			return Found{}, fmt.Errorf("looking at %s: %w", path.Join(dir, name), err)
		}
		if upper {
			f.Whiteout = in.whiteout
		}
		if in.found && !upper {
			f.InImage = true
		}
		if in.found && !hidden && !f.Exists {
			f.Exists, f.InLayer, f.CopiedUp = true, upper, upper && in.copiedUp
			f.Host, f.Stat, f.link = path.Join(dir, name), in.stat, in.link
		}
		hidden = hidden || in.hides
		if !upper {
			imageHidden = imageHidden || in.hides
		}
	}
	return f, nil
}

// look is what one directory holds of a name.
type look struct {
	found    bool
	stat     unix.Stat_t
	link     string
	copiedUp bool
	whiteout bool // of just this name
	// hides tells that nothing of this name is seen of the directories below: it
	// was found and is no directory, or it or a directory on the way is deleted,
	// replaced or opaque.
	hides bool
}

// lookIn looks a name up in one of the directories, whose own path may lead
// through symlinks of the host.
func lookIn(dir string, parts []string) (look, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return look{}, err
	}
	n, err := nodeOf(fd, -1)
	if err != nil {
		return look{}, err
	}
	defer func() { n.close() }()
	var l look
	for i, name := range parts {
		last := i == len(parts)-1
		child, err := childOf(&n, name, -1)
		if errors.Is(err, errAbsent) {
			return l, nil
		}
		if err != nil {
			return look{}, err
		}
		n.close()
		n = child
		if n.stat.Mode&unix.S_IFMT == unix.S_IFCHR && n.stat.Rdev == 0 {
			l.hides, l.whiteout = true, last
			return l, nil
		}
		if !n.dir && !last {
			l.hides = true
			return l, nil
		}
		if !n.dir || n.attribute("opaque") == "y" {
			l.hides = true
		}
	}
	l.found, l.stat, l.link = true, n.stat, n.link
	l.copiedUp = n.hasAttribute("origin")
	return l, nil
}

// attribute returns one that overlayfs has set, empty if there is none. Those of a
// rootless runtime have another prefix.
func (n *node) attribute(name string) string {
	at := (&Place{fd: n.fd}).Name()
	var value [16]byte
	for _, prefix := range []string{"trusted.overlay.", "user.overlay."} {
		if size, err := unix.Getxattr(at, prefix+name, value[:]); err == nil {
			return string(value[:size])
		}
	}
	return ""
}

func (n *node) hasAttribute(name string) bool {
	at := (&Place{fd: n.fd}).Name()
	for _, prefix := range []string{"trusted.overlay.", "user.overlay."} {
		if _, err := unix.Getxattr(at, prefix+name, nil); err == nil {
			return true
		}
	}
	return false
}
