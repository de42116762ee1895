//go:build linux

package e2e

import (
	"fmt"
	"testing"
)

// Stores into shared mappings, charged to whoever stores. The files are one hole,
// so that each first store to a page takes a block.

// hole makes a file of that size that takes no disk.
func (st *stage) hole(t *testing.T, path string, size int64) {
	t.Helper()
	st.b.run(t, "prep", fields(fmt.Sprintf("create path=%s then truncate path=%s size=%d", path, path, size))...)
}

// mapPassed: a process maps a descriptor that its parent has opened and passed on.
func mapPassed(t *testing.T, st *stage) {
	const path = "/w/map-passed"
	st.hole(t, path, 65_536)
	st.b.run(t, "prep", fields("symlink target=/bin/workload path=/run/w-mapper")...)
	st.b.run(t, "w-passer", fields("keep path="+path+" then start exe=/run/w-mapper pass="+path+
		" args=adopt,path="+path+",then,map,path="+path+",size=65536,then,store,path="+path+",size=65536 then await")...)
	st.require("the child is charged", charged{"w-mapper", path, 0, 65_536, 0}, charged{name: "w-passer", path: path})
}

// mapForked: a child inherits its parent's mapping; both store into it, each into folios
// of its own: xfs takes blocks for all of a folio when one of its pages is stored to.
func mapForked(t *testing.T, st *stage) {
	const path = "/w/map-forked"
	st.hole(t, path, 262_144)
	st.b.run(t, "w-forker", fields("map path="+path+" size=262144 then forkstore path="+path+" size=131072 name=w-forked then store path="+path+" size=262144 then unmap path="+path)...)
	st.require("parent and child are charged with the pages that they were first at",
		charged{"w-forked", path, 0, 131_072, 0}, charged{"w-forker", path, 0, 131_072, 0})
}

// mapByTwo: two processes have mapped one file and store at the same time.
func mapByTwo(t *testing.T, st *stage) {
	const path = "/w/map-by-two"
	st.hole(t, path, 262_144)
	var both []*proc
	for name, parts := range map[string][2]int{"w-map-a": {0, 131_072}, "w-map-b": {131_072, 0}} {
		line := fmt.Sprintf("map path=%s size=262144 then wait", path)
		for _, offset := range parts {
			line += fmt.Sprintf(" then store path=%s offset=%d size=131072 then wait", path, offset)
		}
		p := st.b.spawn(t, name, fields(line)...)
		p.until(t, "waiting")
		both = append(both, p)
	}
	// First each its own half; then each the other's, where nothing is left to take.
	for range 2 {
		for _, p := range both {
			p.resume(t)
		}
		for _, p := range both {
			p.until(t, "waiting")
		}
		st.require("each is charged with its half", charged{"w-map-a", path, 0, 131_072, 0}, charged{"w-map-b", path, 0, 131_072, 0})
	}
	for _, p := range both {
		p.resume(t)
		p.finish(t)
	}
}

// mapKilled: a process is killed after it has stored.
func mapKilled(t *testing.T, st *stage) {
	const name, path = "w-map-killed", "/w/map-killed"
	st.hole(t, path, 65_536)
	p := st.b.spawn(t, name, fields("map path="+path+" size=65536 then store path="+path+" size=65536 then wait")...)
	p.until(t, "waiting")
	p.kill(t, st.b.hostPID(t, name))
	settle(t, st.b.upper)
	st.require("the killed process is charged", charged{name, path, 0, 65_536, 0})
}
