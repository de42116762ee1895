package resolver

import (
	"errors"
	"fmt"
	"strings"
)

// ErrUnreachable is matched by errors of calls that could not reach the
// container runtime: not running, no such socket, no permission, no answer in
// time.
var ErrUnreachable = errors.New("container runtime unreachable")

// ErrNoUpperDir is matched by Container.LayerErr if the container's storage driver
// keeps no directory that holds the layer, or one that its processes do not change
// themselves.
var ErrNoUpperDir = errors.New("no directory holds the layer as its processes change it")

// ErrVanished is Container.LayerErr of a container that was gone before anybody
// could look at it: nothing can be known of its layer.
var ErrVanished = errors.New("it was gone before it could be looked at")

// errNotMounted is Container.LayerErr where only a mount tells of the layer.
var errNotMounted = errors.New("its root file system is not mounted, and the runtime does not tell its upper directory")

// NotFoundError is returned when no container has the name or id.
type NotFoundError struct {
	Name string
	// Nearest is the most similar name among the existing containers; empty if
	// none is similar.
	Nearest string
}

func (e *NotFoundError) Error() string { return fmt.Sprintf("no such container: %s", e.Name) }

// AmbiguousError is returned when an id prefix fits several containers.
type AmbiguousError struct {
	Prefix  string
	Matches []string // full ids, sorted
}

func (e *AmbiguousError) Error() string {
	return fmt.Sprintf("id prefix %s fits %d containers: %s", e.Prefix, len(e.Matches), strings.Join(e.Matches, ", "))
}

// RuntimeError says which of several runtimes an error is from.
type RuntimeError struct {
	Runtime string // a Runtime… word
	Err     error
}

func (e *RuntimeError) Error() string { return e.Runtime + ": " + e.Err.Error() }
func (e *RuntimeError) Unwrap() error { return e.Err }

// nearest returns the name that is most similar to the wanted one, or "".
func nearest(want string, names []string) string {
	const longest = 128 // hostile names must not cost time
	if len(want) > longest {
		return ""
	}
	limit := min(3, 1+len(want)/4)
	best, found := "", ""
	for _, name := range names {
		if len(name) > longest || name == "" {
			continue
		}
		if d := distance(want, name); d <= limit && (best == "" || d < distance(want, best)) {
			best = name
		}
		if found == "" && len(want) >= 3 && strings.Contains(name, want) {
			found = name
		}
	}
	if best != "" {
		return best
	}
	return found
}

// distance is the number of bytes to insert, delete, change or swap with their
// neighbour to turn a into b.
func distance(a, b string) int {
	var before, last []int
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		before, last, row = last, row, make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			change := last[j-1]
			if a[i-1] != b[j-1] {
				change++
			}
			row[j] = min(change, last[j]+1, row[j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
	}
	return row[len(b)]
}
