package aggregate

import (
	"hash/maphash"
	"slices"

	"github.com/layertrace/layertrace/internal/record"
	"github.com/layertrace/layertrace/tracer/event"
)

// nodeID is a node's place in its tree; 0 is none.
type nodeID uint32

// origin is record.File's origin in one byte.
type origin uint8

const (
	originUnknown origin = iota
	originAdded
	originCopiedUp
	originWhiteout
	originDirectory
)

func parseOrigin(s string) origin {
	switch s {
	case record.OriginCopiedUp:
		return originCopiedUp
	case record.OriginWhiteout:
		return originWhiteout
	case record.OriginDirectory:
		return originDirectory
	default:
		return originAdded
	}
}

func (o origin) String() string {
	switch o {
	case originCopiedUp:
		return record.OriginCopiedUp
	case originWhiteout:
		return record.OriginWhiteout
	case originDirectory:
		return record.OriginDirectory
	case originAdded:
		return record.OriginAdded
	default:
		return "" // known only by its inode number
	}
}

type nodeFlags uint16

const (
	// flagNamed: parent and name are set, be it to the last name of a deleted file.
	flagNamed nodeFlags = 1 << iota
	// flagDeleted: the inode has no name left.
	flagDeleted
	// flagGone: the inode was freed.
	flagGone
	// flagBuried: nothing more is to come of the inode; the node goes once
	// nothing refers to it.
	flagBuried
	// flagSeeded: the baseline holds the inode's size.
	flagSeeded
	// flagRenamed: its name came by a rename, so that another name that the
	// scan reports later is the old one.
	flagRenamed
	// flagMoved: its one name is where the scan came across it again, so that where
	// it was before is another.
	flagMoved
	// flagDoubt: a name was unlinked that the node was not known to have, so
	// that a name event was lost. Its sizes tell later whether it is still there.
	flagDoubt
	// flagCounted: the node is part of layer.files.
	flagCounted
	// flagUnresolved: that its path is not known has been reported.
	flagUnresolved
	// flagShown: an earlier interval has a record of it.
	flagShown
)

// node is one inode of a layer. There may be millions, so its layout matters:
// 96 bytes, of which name's header is the only pointer.
type node struct {
	inode, gen       uint64
	size, disk       int64 // now: baseline and deltas
	grown, grownDisk int64 // the deltas' part of size and disk
	written          uint64
	name             string
	parent           nodeID
	next             nodeID // other lives of the inode number, newest first; in the free list: the next
	refs             uint32 // names of other nodes that have this one as parent
	pending          uint32 // 1 + index of the newest acc of the interval
	flags            nodeFlags
	origin           origin
	aliased          bool // has further names in tree.aliases
}

func (n *node) is(f nodeFlags) bool { return n.flags&f != 0 }
func (n *node) dir() bool           { return n.origin == originDirectory }
func (n *node) born() bool          { return n.gen&event.Born != 0 }

// linked reports whether the inode has a name that is known.
func (n *node) linked() bool { return n.flags&(flagNamed|flagDeleted) == flagNamed }

// dirent is a further name of a hard-linked inode.
type dirent struct {
	parent nodeID
	name   string
}

const (
	chunkBits = 10
	chunkLen  = 1 << chunkBits
)

// tree holds the nodes of one layer. Nodes lie in chunks that never move, so a
// *node stays valid until it is freed.
type tree struct {
	chunks  []*[chunkLen]node
	used    uint32 // nodes ever taken from chunks, node 0 included
	free    nodeID
	byInode map[uint64]nodeID
	aliases map[nodeID][]dirent
	root    nodeID
	// byName finds who is linked under a name. The keys are hashes, since names
	// would take twice the memory. Of two names with one hash, which is not to be
	// expected, the earlier one is not found.
	byName map[uint64]nodeID
	seed   maphash.Seed
}

func newTree() tree {
	return tree{
		used: 1, byInode: make(map[uint64]nodeID), aliases: make(map[nodeID][]dirent),
		byName: make(map[uint64]nodeID), seed: maphash.MakeSeed(),
	}
}

func (t *tree) at(id nodeID) *node { return &t.chunks[id>>chunkBits][id&(chunkLen-1)] }

// find returns the node of exactly this life of the inode, or 0.
func (t *tree) find(f event.FileID) nodeID {
	id := t.byInode[f.Inode]
	for id != 0 {
		n := t.at(id)
		if n.gen == f.Generation {
			return id
		}
		id = n.next
	}
	return 0
}

// current returns the newest life of the inode that was not freed, or 0.
func (t *tree) current(inode uint64) nodeID {
	id := t.byInode[inode]
	for id != 0 {
		n := t.at(id)
		if !n.is(flagGone) {
			return id
		}
		id = n.next
	}
	return 0
}

// add makes a node without a name. The life must not be known yet.
func (t *tree) add(f event.FileID) nodeID {
	id := t.free
	if id != 0 {
		t.free = t.at(id).next
	} else {
		id = nodeID(t.used)
		t.used++
		if int(id>>chunkBits) >= len(t.chunks) {
			t.chunks = append(t.chunks, new([chunkLen]node))
		}
	}
	*t.at(id) = node{inode: f.Inode, gen: f.Generation, next: t.byInode[f.Inode]}
	t.byInode[f.Inode] = id
	return id
}

// holder returns the node that is linked under a name, or 0.
func (t *tree) holder(parent nodeID, name string) nodeID {
	id := t.byName[t.hash(parent, name)]
	if id == 0 || !t.hasName(id, parent, name) {
		return 0
	}
	return id
}

func (t *tree) hash(parent nodeID, name string) uint64 {
	return maphash.Comparable(t.seed, dirent{parent, name})
}

// index makes holder find a name of the node, unless another one has it, too.
// Without a known directory a name says nothing.
func (t *tree) index(id, parent nodeID, name string) {
	if parent == 0 {
		return
	}
	h := t.hash(parent, name)
	if other := t.byName[h]; other == 0 || !t.hasName(other, parent, name) {
		t.byName[h] = id
	}
}

func (t *tree) unindex(id, parent nodeID, name string) {
	if h := t.hash(parent, name); t.byName[h] == id {
		delete(t.byName, h)
	}
}

// place sets the primary name, which may be the last one of a deleted node.
func (t *tree) place(id, parent nodeID, name string) {
	n := t.at(id)
	old := n.parent
	n.parent, n.name = parent, name
	n.flags |= flagNamed
	t.ref(parent)
	t.unref(old)
}

// setName replaces the primary name.
func (t *tree) setName(id, parent nodeID, name string) {
	n := t.at(id)
	if n.linked() {
		t.unindex(id, n.parent, n.name)
	}
	t.place(id, parent, name)
	n.flags &^= flagDeleted
	t.index(id, parent, name)
}

// preferName makes one of the node's further names the primary one.
func (t *tree) preferName(id nodeID, alias int) {
	n := t.at(id)
	as := t.aliases[id]
	d := as[alias]
	as[alias] = dirent{n.parent, n.name}
	n.parent, n.name = d.parent, d.name
}

// addName gives the node a further name, or its first. It reports whether the
// node did not have it.
func (t *tree) addName(id, parent nodeID, name string) bool {
	n := t.at(id)
	if !n.linked() {
		t.setName(id, parent, name)
		return true
	}
	if t.hasName(id, parent, name) {
		return false
	}
	t.aliases[id] = append(t.aliases[id], dirent{parent, name})
	n.aliased = true
	t.ref(parent)
	t.index(id, parent, name)
	return true
}

// hasName reports whether the node is linked under that name.
func (t *tree) hasName(id, parent nodeID, name string) bool {
	n := t.at(id)
	if !n.linked() {
		return false
	}
	return n.parent == parent && n.name == name ||
		n.aliased && slices.Contains(t.aliases[id], dirent{parent, name})
}

// dropName takes a name away. last is true if none is left; the node then keeps
// it as its last name. A name that the node is not known to have leaves it in
// doubt.
func (t *tree) dropName(id, parent nodeID, name string) (last bool) {
	n := t.at(id)
	if !n.linked() {
		// All that is known of it is this: it had that name and lost it.
		t.place(id, parent, name)
		n.flags |= flagDeleted
		return true
	}
	if n.parent == parent && n.name == name {
		if !n.aliased {
			t.unindex(id, parent, name)
			n.flags |= flagDeleted
			return true
		}
		t.preferName(id, 0)
		t.dropAlias(id, 0)
		return false
	}
	if i := slices.Index(t.aliases[id], dirent{parent, name}); i >= 0 {
		t.dropAlias(id, i)
		return false
	}
	n.flags |= flagDoubt
	return false
}

func (t *tree) dropAlias(id nodeID, i int) {
	as := t.aliases[id]
	t.unindex(id, as[i].parent, as[i].name)
	t.unref(as[i].parent)
	as = slices.Delete(as, i, i+1)
	if len(as) == 0 {
		delete(t.aliases, id)
		t.at(id).aliased = false
		return
	}
	t.aliases[id] = as
}

// dropAllNames marks the node deleted. It keeps its primary name, if any.
func (t *tree) dropAllNames(id nodeID) {
	n := t.at(id)
	for n.aliased {
		t.dropAlias(id, len(t.aliases[id])-1)
	}
	if n.linked() {
		t.unindex(id, n.parent, n.name)
	}
	n.flags |= flagDeleted
}

func (t *tree) ref(id nodeID) {
	if id != 0 {
		t.at(id).refs++
	}
}

func (t *tree) unref(id nodeID) {
	if id != 0 {
		t.at(id).refs--
	}
}

// release frees a buried node, and then those of its ancestors that were buried
// before it and were kept for its path only. A node that something still refers
// to stays.
func (t *tree) release(id nodeID) {
	for id != 0 {
		n := t.at(id)
		if !n.is(flagBuried) || n.refs != 0 || n.pending != 0 || id == t.root {
			return
		}
		t.unhash(id, n)
		parent := n.parent
		*n = node{next: t.free}
		t.free = id
		t.unref(parent)
		id = parent
	}
}

func (t *tree) unhash(id nodeID, n *node) {
	at := t.byInode[n.inode]
	if at == id {
		if n.next == 0 {
			delete(t.byInode, n.inode)
		} else {
			t.byInode[n.inode] = n.next
		}
		return
	}
	for at != 0 {
		p := t.at(at)
		if p.next == id {
			p.next = n.next
			return
		}
		at = p.next
	}
}

// each calls f for every node in use.
func (t *tree) each(f func(nodeID, *node)) {
	for i := uint32(1); i < t.used; i++ {
		n := t.at(nodeID(i))
		if n.inode != 0 {
			f(nodeID(i), n)
		}
	}
}

// maxPath bounds a path, in bytes, at what a system call accepts. Directories
// can be nested deeper than that; it also ends the walk where lost events have
// made a loop of the tree.
const maxPath = 4096

// filePath is a path inside the container. If it is not complete, text is the
// known end of it, without a leading slash.
type filePath struct {
	text     string
	complete bool
	tooLong  bool // not complete because of maxPath
}

func (p filePath) join(name string) filePath {
	switch {
	case p.complete && p.text == "/":
		p.text += name
	case p.text == "":
		p.text = name
	default:
		p.text += "/" + name
	}
	return p
}

// paths builds paths. It remembers those of the directories that it was asked
// for, so that a path costs one allocation where files share a directory, but
// not those of their ancestors: deep trees would make that quadratic. It is
// valid as long as the tree does not change.
type paths struct {
	t     *tree
	dirs  map[nodeID]filePath
	chain []nodeID
}

func newPaths(t *tree) *paths { return &paths{t: t, dirs: make(map[nodeID]filePath)} }

// of returns a node's path by its primary or last name.
func (p *paths) of(id nodeID) filePath {
	if id == 0 {
		return filePath{}
	}
	if id == p.t.root {
		return filePath{text: "/", complete: true}
	}
	n := p.t.at(id)
	if !n.is(flagNamed) {
		return filePath{}
	}
	return p.under(n.parent, n.name)
}

// under returns the path of name in the directory parent.
func (p *paths) under(parent nodeID, name string) filePath {
	d, ok := p.dirs[parent]
	if !ok {
		d = p.walk(parent)
		p.dirs[parent] = d
	}
	return d.join(name)
}

func (p *paths) walk(id nodeID) filePath {
	p.chain = p.chain[:0]
	size := 0
	var res filePath
	for {
		if id == 0 {
			break
		}
		if id == p.t.root {
			res.complete = true
			break
		}
		n := p.t.at(id)
		if !n.is(flagNamed) {
			break
		}
		if size += len(n.name) + 1; size > maxPath {
			res.tooLong = true
			break
		}
		p.chain = append(p.chain, id)
		id = n.parent
	}
	if len(p.chain) == 0 {
		if res.complete {
			res.text = "/"
		}
		return res
	}
	b := make([]byte, 0, size)
	for i := len(p.chain) - 1; i >= 0; i-- {
		if res.complete || len(b) > 0 {
			b = append(b, '/')
		}
		b = append(b, p.t.at(p.chain[i]).name...)
	}
	res.text = string(b)
	return res
}
