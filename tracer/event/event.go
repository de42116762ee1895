// Package event is the vocabulary in which the kernel side reports: numbers
// and raw names only. It knows no container, mount or runtime, and holds no
// eBPF code, so that the aggregator can use it without loading a kernel program.
//
// All sizes are bytes. All values are plain data, safe to copy; none refers to
// memory that the producer reuses.
package event

// LayerID names one watched layer (the upper directory of one overlay) inside
// one tracer. The caller chooses it; zero is not a valid id.
type LayerID uint32

// Upper is the upper directory of a layer.
type Upper struct {
	// Device is the kernel's number (major<<20 | minor) of the file system that the
	// directory is on, as in the mount table: stat gives another one on btrfs. That
	// other one is what a plain directory there needs.
	Device uint64
	Inode  uint64
	// FileSystem is its type as the mount table names it: ext4, xfs, btrfs, …
	FileSystem string
	// Mounted tells whether an overlay uses the directory at this moment. The
	// kernel side follows later mounts and unmounts by itself.
	Mounted bool
	// Plain: there is no overlay above the directory, its files are written as they
	// are. Then Mounted tells whether it is in use, and the caller follows that.
	Plain bool
}

// FileID names one inode of a layer's file system for the whole of its life.
// Inode numbers are reused by file systems; Generation tells their lives apart.
type FileID struct {
	Inode      uint64
	Generation uint64
}

// Born is the bit of a Generation that tells that the inode joined its layer after
// counting began.
const Born = 1 << 63 // as BORN of bpf/event.h

// Born reports whether the inode joined its layer after counting began. One that did
// not is part of the baseline, or was deleted while that was taken.
func (f FileID) Born() bool { return f.Generation&Born != 0 }

// ProcessID names one program image of one process: the thread group id as seen
// in the initial pid namespace, the group leader's start in nanoseconds since
// boot (CLOCK_BOOTTIME), and how many times it had called execve. The zero value
// means "not known", as for write-back of pages dirtied before tracing began.
type ProcessID struct {
	PID   uint32
	Exec  uint32
	Start uint64
}

// Process holds what is known of a ProcessID, captured in the kernel the first
// time that it did anything to a watched layer, so that it is known even if the
// process has ended since.
type Process struct {
	ID        ProcessID
	ParentPID uint32
	// CgroupID is the process's cgroup: the inode number of its directory in the v2
	// hierarchy, or in that of the tracer's cgroup v1 controller.
	CgroupID uint64
	// Name is the thread group leader's comm, raw bytes, at most 15.
	Name string
	// Executable is the path of the executable as seen in its own mount
	// namespace; raw bytes; empty if it could not be read.
	Executable string
}

// FileOp says what a FileEvent reports.
type FileOp uint8

const (
	// FileCreated: a new inode joined the layer under Parent/Name; with an empty
	// Name it has none yet (O_TMPFILE).
	FileCreated FileOp = iota + 1
	// FileCopiedUp: overlayfs copied an inode of the image into the layer.
	FileCopiedUp
	// FileLinked: an inode that is in the layer already has got a further name,
	// or a nameless one (O_TMPFILE) its first.
	FileLinked
	// FileRenamed: the inode is now called Parent/Name (and no longer what it
	// was called before; of a directory, everything below it moves too). What had
	// that name before has lost it; no event of its own says so.
	FileRenamed
	// FileUnlinked: the name Parent/Name is gone, the inode may have others or be
	// open.
	FileUnlinked
	// FileWhiteout: Parent/Name of the image was deleted, the layer now holds a
	// whiteout. File is zero, since whiteouts may share one inode and take nothing;
	// but for one that a rename has left and that takes disk.
	FileWhiteout
	// FileGone: the inode was freed. Parent and Name are empty. Its FileID never
	// comes again. While no overlay mount uses the layer, it is a part of the
	// layer's removal, for which there are no FileUnlinked and no Deltas.
	FileGone
)

// FileEvent reports a change of the layer's tree. Events of one Batch are in
// the order in which they happened.
type FileEvent struct {
	Layer   LayerID
	Op      FileOp
	File    FileID
	Parent  FileID
	Name    string // one path component, raw bytes, at most 255
	Mode    uint32 // st_mode, type bits included; 0 where unknown (FileUnlinked, FileGone)
	Process ProcessID
}

// Causes is a set of reasons for a change.
type Causes uint16

const (
	CauseWrite Causes = 1 << iota
	CauseCopyUp
	CauseTruncate
	CauseAllocate
	CauseMmap
	CauseClone
	CauseCreate
	CauseDelete
	CauseRename
	CauseMetadata
)

// Delta is what one process did to one file of one layer since the Batch before.
// Deltas are exact: those of a file always add up to what it is now minus what
// it was at the baseline (or minus zero if it was not there).
type Delta struct {
	Layer   LayerID
	File    FileID
	Process ProcessID
	Size    int64 // change of the layer's size: st_size of non-directories that have a name
	Disk    int64 // change of the layer's allocated bytes: st_blocks*512, directories included
	CopyUp  int64 // the part of Size (of a directory: of Disk) that overlayfs copied from the image
	Written uint64
	Writes  uint64
	Causes  Causes
}

// Covered is what one process wrote to one file outside the layer, reported
// only when covered paths are traced. It never counts into a layer's totals.
type Covered struct {
	Layer   LayerID // the watched container whose process wrote
	Device  uint64  // kernel s_dev of the file's superblock: major<<20 | minor
	Inode   uint64
	Process ProcessID
	// Path is the path as the writing process would name it in its own mount
	// namespace, crossing mounts; empty if not known.
	Path    string
	Size    int64 // change of st_size by these writes
	Written uint64
	Writes  uint64
	Causes  Causes
	// FileSize is st_size after the last of these writes.
	FileSize int64
}

// LossReason says which bound was hit. The words are those of the stream.
type LossReason string

const (
	// LossTableFull: a table of files or counters had no room; the bytes were
	// counted for the layer as a whole.
	LossTableFull LossReason = "table_full"
	// LossRingFull: a record with a name did not fit; no bytes are lost.
	LossRingFull LossReason = "ring_full"
	// LossRecursion: the kernel refused to run a program because it was already
	// running on that CPU; the ledger catches up at the file's next event.
	LossRecursion LossReason = "recursion"
	// LossPathTooLong: a name or path exceeded its bound.
	LossPathTooLong LossReason = "path_too_long"
)

// Loss counts what did not fit since the Batch before. Layer is 0 where it is
// not known to which layer the events belonged. Bytes is the growth in size that
// is known only for the layer as a whole.
type Loss struct {
	Layer  LayerID
	Reason LossReason
	Events uint64
	Bytes  int64
}

// Overflow is exact growth of a layer that could not be kept per process and
// file because a table was full.
type Overflow struct {
	Layer   LayerID
	Size    int64
	Disk    int64
	CopyUp  int64
	Written uint64
}

// LayerState is a layer's state outside of the deltas.
type LayerState struct {
	Layer LayerID
	// OpenDeleted is the disk space held by inodes without a name that are
	// still open.
	OpenDeleted int64
	// Mounted tells whether any overlay mount uses the layer.
	Mounted bool
}

// Batch is everything that happened between two collections, in an order that
// can be applied: Processes, then Files, then Deltas, Covered and Overflows.
// A FileGone in Files refers to a file whose last Deltas may be in the same
// Batch, so forget it only after applying those.
type Batch struct {
	Processes []Process
	Files     []FileEvent
	Deltas    []Delta
	Covered   []Covered
	Overflows []Overflow
	Layers    []LayerState // every layer of the tracer
	Losses    []Loss
}

// Empty reports whether nothing happened.
func (b *Batch) Empty() bool {
	return len(b.Processes) == 0 && len(b.Files) == 0 && len(b.Deltas) == 0 &&
		len(b.Covered) == 0 && len(b.Overflows) == 0 && len(b.Losses) == 0
}
