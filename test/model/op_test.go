package model

import (
	"fmt"
	"strings"
)

// op is one operation of one worker. Which fields mean something is up to its
// kind.
type op struct {
	Worker int
	Kind   string
	Path   string `json:",omitempty"` // relative to the root of the overlay
	To     string `json:",omitempty"`
	Offset int64  `json:",omitempty"`
	Size   int64  `json:",omitempty"`
	Slot   int    `json:",omitempty"` // of the worker's own held files
	Peer   int    `json:",omitempty"` // another worker
	Choice string `json:",omitempty"` // one of the kind's choices
}

// result is what an operation said about itself.
type result struct {
	// Errno is the name of the error that it ended with; what it did before that
	// is done.
	Errno string `json:",omitempty"`
	// By is the process that did it: the worker, or a child of its, which is then the
	// Parent.
	By     uint32
	Parent uint32 `json:",omitempty"`
	// Heir is the worker that has taken its place.
	Heir uint32 `json:",omitempty"`
	// Written is the sum of what its write-like calls returned.
	Written int64 `json:",omitempty"`
	// Perhaps is how many bytes may be written as well: those that it has had shared
	// instead, or those that it was at as it was killed.
	Perhaps int64 `json:",omitempty"`
	// Wrong says that the checker itself does not work.
	Wrong string `json:",omitempty"`
}

// args says which of an operation's fields its kind draws.
type args uint

const (
	onFile args = 1 << iota // Path is usually a file's
	onDir                   // Path is usually a directory's
	onAny                   // Path is either's
	onNew                   // Path is usually that of nothing
	toFile
	toDir
	toAny
	toNew
	atOffset
	ofSize
	inPages // Offset and Size are usually those of whole blocks
	inShort // Size is that of a name or an attribute
	inSlot
	ofPeer
)

// kind is a way to change a layer, or to have a bearing on its changes.
type kind struct {
	name    string
	args    args
	choices []string
	// holds says that it puts an open file into a slot.
	holds bool
	// alone says that it is a turn of its own, since what it changes is not the doing
	// of the worker as it was before.
	alone bool
	// refused are the choices, or "" for the whole kind, that some kernels or file
	// systems do not support, or overlayfs never does.
	refused []string
	run     func(w *worker, o *op) error
}

// kinds is every kind. The first ones are drawn more often.
var kinds = []kind{
	{name: "pwrite", args: onFile | atOffset | ofSize, run: pwriteOp},
	{name: "append", args: onFile | ofSize, run: appendOp},
	{name: "unlink", args: onFile, run: unlinkOp},
	{name: "hold", args: onFile | inSlot, holds: true, choices: []string{"plain", "append", "trunc", "read only"}, run: holdOp},
	{name: "rename", args: onFile | toFile, choices: []string{"plain", "noreplace", "exchange", "whiteout"}, refused: []string{"whiteout"}, run: renameOp},
	{name: "heldwrite", args: inSlot | atOffset | ofSize, run: heldWriteOp},
	{name: "truncate", args: onFile | ofSize, choices: []string{"path", "descriptor"}, run: truncateOp},
	{name: "fallocate", args: onFile | atOffset | ofSize, choices: []string{"plain", "keep", "punch", "zero", "zerokeep"}, refused: []string{"zero", "zerokeep"}, run: fallocateOp},
	{name: "store", args: onFile | atOffset | ofSize, choices: []string{"as it is", "extended", "synced"}, run: storeOp},
	{name: "overwrite", args: onFile | ofSize, run: overwriteOp},
	{name: "mkdir", args: onDir, run: mkdirOp},
	{name: "setxattr", args: onAny | inShort, choices: []string{"user.a", "user.b", "trusted.c"}, run: setxattrOp},
	{name: "link", args: onFile | toNew, run: linkOp},
	{name: "release", args: inSlot, run: releaseOp},
	{name: "rmtree", args: onDir, run: rmtreeOp},
	{name: "scatter", args: onFile | atOffset | ofSize, run: scatterOp},
	{name: "shift", args: onFile | inPages, choices: []string{"collapse", "insert"}, refused: []string{"collapse", "insert"}, run: fallocateOp},
	{name: "writev", args: onFile | atOffset | ofSize, run: writevOp},
	{name: "pwritev2", args: onFile | atOffset | ofSize, choices: []string{"plain", "append", "dsync", "sync"}, run: pwritev2Op},
	{name: "uring", args: onFile | atOffset | ofSize, choices: []string{"plain", "fixed", "linked", "async", "polled", "splice", "fallocate"}, run: uringOp},
	{name: "limit", args: onFile | atOffset | ofSize, choices: []string{"write", "append", "truncate", "fallocate", "open"}, run: limitOp},
	{name: "syncwrite", args: onFile | atOffset | ofSize, choices: []string{"sync", "dsync", "append"}, run: syncWriteOp},
	{name: "direct", args: onFile | inPages, run: directOp},
	{name: "aio", args: onFile | inPages, choices: []string{"buffered", "direct"}, run: aioOp},
	{name: "copyrange", args: onFile | toFile | atOffset | ofSize, run: copyRangeOp},
	{name: "sendfile", args: onFile | toFile | atOffset | ofSize, run: sendfileOp},
	{name: "splice", args: onFile | atOffset | ofSize, run: spliceOp},
	{name: "vmsplice", args: onFile | atOffset | ofSize, run: vmspliceOp},
	{name: "clone", args: onFile | toFile, choices: []string{"whole", "range"}, refused: []string{"whole", "range"}, run: cloneOp},
	{name: "dedupe", args: onFile | toFile | inPages, choices: []string{"alike", "as it is"}, refused: []string{"alike", "as it is"}, run: dedupeOp},
	{name: "create", args: onNew, run: createOp},
	{name: "open", args: onFile, choices: []string{"plain", "trunc"}, run: openOp},
	{name: "mknod", args: onNew, choices: []string{"fifo", "device", "whiteout"}, refused: []string{"whiteout"}, run: mknodOp},
	{name: "symlink", args: onNew | inShort, run: symlinkOp},
	{name: "rmdir", args: onDir, run: rmdirOp},
	{name: "renamedir", args: onDir | toDir, choices: []string{"plain", "exchange"}, run: renameOp},
	{name: "movedir", args: onDir | toNew, choices: []string{"plain", "noreplace"}, run: renameOp},
	{name: "renameany", args: onAny | toAny, choices: []string{"exchange", "plain"}, run: renameOp},
	{name: "uringname", args: onFile | toFile, choices: []string{"rename", "unlink"}, run: uringNameOp},
	{name: "fork", args: onFile | ofSize, choices: []string{"append", "trunc"}, alone: true, run: forkOp},
	{name: "crowd", args: onDir | ofSize, run: crowdOp},
	{name: "disperse", args: onDir, run: disperseOp},
	{name: "removexattr", args: onAny, choices: []string{"user.a", "user.b", "trusted.c"}, run: removexattrOp},
	{name: "setacl", args: onAny | inShort, choices: []string{"access", "default"}, run: setACLOp},
	{name: "chmod", args: onAny, run: chmodOp},
	{name: "chown", args: onAny, run: chownOp},
	{name: "utimes", args: onAny, run: utimesOp},
	{name: "tmpfile", args: onDir | inSlot, holds: true, refused: []string{""}, run: tmpfileOp},
	{name: "holddir", args: onDir | inSlot, holds: true, run: holdDirOp},
	{name: "holdmap", args: onFile | inSlot | ofSize, holds: true, run: holdMapOp},
	{name: "adopt", args: inSlot | ofPeer, holds: true, run: adoptOp},
	{name: "heldstore", args: inSlot | inPages, run: heldStoreOp},
	{name: "heldtruncate", args: inSlot | ofSize, run: heldTruncateOp},
	{name: "heldfallocate", args: inSlot | atOffset | ofSize, choices: []string{"plain", "keep", "punch", "zero", "zerokeep"}, refused: []string{"zero", "zerokeep"}, run: heldFallocateOp},
	{name: "heldshift", args: inSlot | inPages, choices: []string{"collapse", "insert"}, refused: []string{"collapse", "insert"}, run: heldFallocateOp},
	{name: "heldfork", args: inSlot | atOffset | ofSize, choices: []string{"append", "store"}, alone: true, run: heldForkOp},
	{name: "heldlink", args: inSlot | toNew, run: heldLinkOp},
	{name: "heldsync", args: inSlot, run: heldSyncOp},
	{name: "fsync", args: onFile, choices: []string{"file", "data"}, run: fsyncOp},
	{name: "sync", choices: []string{"file system", "all"}, run: syncOp},
	{name: "kill", args: onFile | ofSize, choices: []string{"at rest", "opening", "writing"}, alone: true, run: killOp},
	{name: "dropcaches", alone: true, run: dropCachesOp},
	{name: "collect", alone: true, run: collectOp},
}

var kindNamed = func() map[string]*kind {
	named := map[string]*kind{}
	for i := range kinds {
		named[kinds[i].name] = &kinds[i]
	}
	return named
}()

// GoString is the operation as a person would write it down; rapid shows it.
func (o op) GoString() string {
	k := kindNamed[o.Kind]
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s", workerName(o.Worker), o.Kind)
	if len(k.choices) > 0 {
		fmt.Fprintf(&b, " (%s)", o.Choice)
	}
	if k.args&(onFile|onDir|onAny|onNew) != 0 {
		fmt.Fprintf(&b, " /%s", o.Path)
	}
	if k.args&(toFile|toDir|toAny|toNew) != 0 {
		fmt.Fprintf(&b, " to /%s", o.To)
	}
	if k.args&inSlot != 0 {
		fmt.Fprintf(&b, " slot %d", o.Slot)
	}
	if k.args&ofPeer != 0 {
		fmt.Fprintf(&b, " from %s", workerName(o.Peer))
	}
	if k.args&(atOffset|inPages) != 0 {
		fmt.Fprintf(&b, " offset %d", o.Offset)
	}
	if k.args&(ofSize|inPages|inShort) != 0 {
		fmt.Fprintf(&b, " size %d", o.Size)
	}
	return b.String()
}

func (o op) String() string { return o.GoString() }

// String is what became of the operation, for its line in a report.
func (r result) String() string {
	s := "ok"
	if r.Errno != "" {
		s = r.Errno
	}
	if r.Written != 0 {
		s += fmt.Sprintf(", wrote %d", r.Written)
	}
	if r.Perhaps != 0 {
		s += fmt.Sprintf(", perhaps %d more", r.Perhaps)
	}
	return s
}
