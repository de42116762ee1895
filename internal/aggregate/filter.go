package aggregate

import (
	"fmt"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
)

// filter decides by path which growth is reported.
type filter struct {
	include, exclude []string
}

func newFilter(include, exclude []string) (filter, error) {
	in, err := patterns(include)
	if err != nil {
		return filter{}, err
	}
	ex, err := patterns(exclude)
	if err != nil {
		return filter{}, err
	}
	return filter{in, ex}, nil
}

// patterns anchors each pattern and lets it hold for everything below, which
// "/**" does: it matches no component, too.
func patterns(globs []string) ([]string, error) {
	res := make([]string, 0, len(globs))
	for _, g := range globs {
		if g == "" || !doublestar.ValidatePattern(g) {
			return nil, fmt.Errorf("path pattern %q: malformed", g)
		}
		p := strings.TrimRight(g, "/")
		if !strings.HasPrefix(g, "/") {
			p = "/**/" + p
		}
		if !strings.HasSuffix(p, "/**") {
			p += "/**"
		}
		res = append(res, p)
	}
	return res, nil
}

// keeps reports whether growth of the file is to be reported. Growth without any
// known path always is: what could not be placed must not vanish.
func (f *filter) keeps(p filePath) bool {
	if p.text == "" || len(f.include) == 0 && len(f.exclude) == 0 {
		return true
	}
	path := p.text
	if !p.complete {
		path = "/" + path
	}
	if matchAny(f.exclude, path) {
		return false
	}
	return len(f.include) == 0 || matchAny(f.include, path)
}

func matchAny(patterns []string, path string) bool {
	for _, p := range patterns {
		if doublestar.MatchUnvalidated(p, path) {
			return true
		}
	}
	return false
}
