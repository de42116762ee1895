package inside

import (
	"cmp"
	"errors"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Mount is what a runtime will mount into a container at its next start.
type Mount struct {
	Destination string // absolute; may lead through symlinks of the container
	// Source is what will be seen there, on the host; empty if that is not known,
	// or if Empty.
	Source string
	// Empty tells that there will be an empty directory: a tmpfs.
	Empty bool
}

// Still is a container that does not run. NewStill returns one.
type Still struct {
	layers Layers
	mounts []Mount
	places map[string]int // index of the mount at a path without symlinks
}

// NewStill returns the container as it will look at its next start. The mounts are
// made as a runtime makes them, those nearest to the root first.
func NewStill(layers Layers, mounts []Mount) (*Still, error) {
	s := &Still{layers: layers, mounts: mounts, places: make(map[string]int)}
	order := make([]int, len(mounts))
	for i := range order {
		order[i] = i
	}
	depth := func(i int) int { return len(below(mounts[i].Destination)) }
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(depth(a), depth(b)) })
	for _, i := range order {
		p, err := s.Find(mounts[i].Destination)
		var notDir *NotDirError
		var loop *LoopError
		if errors.As(err, &notDir) || errors.As(err, &loop) {
			continue // the container could not be started
		}
		if err != nil {
			return nil, err
		}
		p.Close()
		if p.Output == 0 {
			s.places[p.Path] = i
		}
	}
	return s, nil
}

// Find follows name. Close the Place. Errors are *NotDirError, *LoopError, or
// those of looking.
func (s *Still) Find(name string) (*Place, error) { return walk(s, name) }

// Destination returns the path without symlinks of a mount, by its index.
func (s *Still) Destination(mount int) string {
	for at, i := range s.places {
		if i == mount {
			return at
		}
	}
	return s.mounts[mount].Destination
}

func (s *Still) root() (node, error) { return node{fd: -1, dir: true, mount: -1}, nil }

func (s *Still) child(dir *node, at, name string) (node, error) {
	if i, ok := s.places[at]; ok {
		return s.mounted(i), nil
	}
	n, err := s.entry(dir, at, name)
	if errors.Is(err, errAbsent) || errors.Is(err, errUnknown) {
		// The runtime makes the directories that lead to a mount.
		for place := range s.places {
			if strings.HasPrefix(place, at+"/") {
				return node{fd: -1, dir: true, mount: dir.mount}, nil
			}
		}
	}
	return n, err
}

func (s *Still) entry(dir *node, at, name string) (node, error) {
	if dir.mount >= 0 {
		switch {
		case dir.fd >= 0:
			return childOf(dir, name, dir.mount)
		case s.mounts[dir.mount].Empty:
			return node{}, errAbsent
		}
		return node{}, errUnknown
	}
	if s.layers.Upper == "" && len(s.layers.Lowers) == 0 {
		return node{}, errUnknown
	}
	found, err := s.layers.Find(at)
	switch {
	case err != nil:
		return node{}, err
	case !found.Exists:
		return node{}, errAbsent
	}
	return node{
		fd: -1, mount: -1, stat: found.Stat, link: found.link,
		dir: found.Stat.Mode&unix.S_IFMT == unix.S_IFDIR,
	}, nil
}

// mounted is the root of a mount. What a path on the host leads to is the host's
// affair, symlinks included.
func (s *Still) mounted(i int) node {
	unseen := node{fd: -1, dir: true, mount: i}
	source := s.mounts[i].Source
	if source == "" || s.mounts[i].Empty {
		return unseen
	}
	fd, err := unix.Open(path.Clean(source), unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return unseen
	}
	n, err := nodeOf(fd, i)
	if err != nil {
		return unseen
	}
	return n
}

// usualOutput are the names by which every container reaches its standard output
// and error: runtimes make these links in /dev.
var usualOutput = regexp.MustCompile(`^/(?:dev/(stdout|stderr)|(?:dev/fd|proc/(?:self|thread-self|1)/fd)/([12]))$`)

func (s *Still) output(name string) (stream int, file string) {
	switch m := usualOutput.FindStringSubmatch(name); {
	case m == nil:
		return 0, ""
	case m[1] == "stdout":
		return 1, ""
	case m[1] == "stderr":
		return 2, ""
	default:
		stream, _ = strconv.Atoi(m[2])
		return stream, ""
	}
}
