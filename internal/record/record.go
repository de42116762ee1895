// Package record holds the records of the NDJSON stream, version 1. The field
// names and meanings are the product's contract; docs/schema/ describes them as
// JSON Schema. Sizes are bytes. Types here are plain data.
//
// Strings that come from the kernel or a file system are raw bytes: pass them
// through [Text] before they enter a record.
package record

import "time"

// Version is the value of every record's "v".
const Version = 1

// Header starts every record. The writer, not the producer, sets Seq.
type Header struct {
	Type string `json:"type"`
	V    int    `json:"v"`
	Time Time   `json:"time"`
	Seq  uint64 `json:"seq"`
}

// Values of a record's "type".
const (
	TypeSession   = "session"
	TypeGrowth    = "growth"
	TypeLayer     = "layer"
	TypeContainer = "container"
	TypeLoss      = "loss"
	TypeSummary   = "summary"
)

// NewHeader starts a record of the given type, made at now. Seq stays 0 until
// the record is written.
func NewHeader(typ string, now time.Time) Header {
	return Header{Type: typ, V: Version, Time: At(now)}
}

// Record is any record of the stream.
type Record interface{ Head() *Header }

// Head lets the writer number the record.
func (h *Header) Head() *Header { return h }

// Container names a container in other records.
type Container struct {
	ID      string `json:"id"`
	Name    string `json:"name"`
	NameB64 string `json:"name_b64,omitempty"`
	Image   string `json:"image"`
	Runtime string `json:"runtime"`
	// Kubernetes is nil for containers that kubelet did not make.
	Kubernetes *Kubernetes `json:"kubernetes,omitempty"`
}

// Kubernetes says where a container belongs there. Container is empty for a pod's
// sandbox.
type Kubernetes struct {
	Namespace string `json:"namespace"`
	Pod       string `json:"pod"`
	PodUID    string `json:"pod_uid,omitempty"`
	Container string `json:"container,omitempty"`
}

// String is what a person calls the container: NAMESPACE/POD/CONTAINER, or
// NAMESPACE/POD for a sandbox.
func (k *Kubernetes) String() string {
	if k.Container == "" {
		return k.Namespace + "/" + k.Pod
	}
	return k.Namespace + "/" + k.Pod + "/" + k.Container
}

// Process is the actor. ContainerID is the actor's own container, absent for
// processes of the host.
type Process struct {
	PID           uint32    `json:"pid"`
	ParentPID     uint32    `json:"parent_pid,omitempty"`
	Name          string    `json:"name"`
	NameB64       string    `json:"name_b64,omitempty"`
	Executable    string    `json:"executable"`
	ExecutableB64 string    `json:"executable_b64,omitempty"`
	StartTime     time.Time `json:"start_time"`
	ContainerID   string    `json:"container_id,omitempty"`
	Exited        bool      `json:"exited"`
}

// Causes of growth, as in Growth.Causes.
const (
	CauseWrite        = "write"
	CauseCopyUp       = "copy_up"
	CauseTruncate     = "truncate"
	CauseAllocate     = "allocate"
	CauseMmap         = "mmap"
	CauseClone        = "clone"
	CauseCreate       = "create"
	CauseDelete       = "delete"
	CauseRename       = "rename"
	CauseMetadata     = "metadata"
	CauseUnattributed = "unattributed"
)

// Origins of a file.
const (
	OriginAdded     = "added"
	OriginCopiedUp  = "copied_up"
	OriginWhiteout  = "whiteout"
	OriginDirectory = "directory"
)

// File is a file after the interval. Size and Allocated are absolute; both are 0
// when nothing of that name is left (Deleted). A directory's Size is always 0,
// since directories count no size in a layer.
//
// Path starts with "/", the container's root. Where a part of it is not known,
// PathIncomplete is set and Path is the known end of it, without a leading "/";
// it is empty when nothing is known. PreviousPath is what the file was called at
// the interval's start, if it was renamed since. Origin is absent where it has no
// meaning: for covered paths and for growth without a path.
type File struct {
	Path            string `json:"path"`
	PathB64         string `json:"path_b64,omitempty"`
	PathIncomplete  bool   `json:"path_incomplete,omitempty"`
	PreviousPath    string `json:"previous_path,omitempty"`
	PreviousPathB64 string `json:"previous_path_b64,omitempty"`
	Origin          string `json:"origin,omitempty"`
	Size            int64  `json:"size"`
	Allocated       int64  `json:"allocated"`
	Deleted         bool   `json:"deleted"`
	Inode           uint64 `json:"inode"`
}

// Storage classes.
const (
	ClassLayer         = "layer"
	ClassVolume        = "volume"
	ClassBind          = "bind"
	ClassTmpfs         = "tmpfs"
	ClassDockerFile    = "docker_file"
	ClassImageMount    = "image_mount"
	ClassNestedOverlay = "nested_overlay"
	ClassOther         = "other"
)

// Storage says what a path lies on. Only Class is set for the layer. Name is a
// volume's or an image's, whose runtimes allow ASCII only.
type Storage struct {
	Class          string `json:"class"`
	Destination    string `json:"destination,omitempty"`
	DestinationB64 string `json:"destination_b64,omitempty"`
	Source         string `json:"source,omitempty"`
	SourceB64      string `json:"source_b64,omitempty"`
	Name           string `json:"name,omitempty"`
}

// NewStorage makes a Storage of paths as raw bytes.
func NewStorage(class, destination, source, name string) Storage {
	s := Storage{Class: class, Name: name}
	s.Destination, s.DestinationB64 = Text(destination)
	s.Source, s.SourceB64 = Text(source)
	return s
}

// Hook is one kernel function that is traced.
type Hook struct {
	Name   string `json:"name"`
	Kind   string `json:"kind"` // fentry, fexit, kprobe, kretprobe
	Target string `json:"target"`
}

// Session is the first record.
type Session struct {
	Header
	Version    string   `json:"version"`
	Host       string   `json:"host"`
	Kernel     string   `json:"kernel"`
	Command    []string `json:"command"`
	CommandB64 []string `json:"command_b64,omitempty"`
	IntervalMS int64    `json:"interval_ms"`
	Hooks      []Hook   `json:"hooks"`
	Coverage   string   `json:"coverage"` // full, partial
	Reasons    []string `json:"coverage_reasons,omitempty"`
}

// Growth is a (container, process, file) that changed in the interval.
type Growth struct {
	Header
	Container    Container `json:"container"`
	Process      *Process  `json:"process"`
	File         File      `json:"file"`
	Storage      Storage   `json:"storage"`
	WrittenBytes uint64    `json:"written_bytes"`
	Writes       uint64    `json:"writes"`
	SizeGrowth   int64     `json:"size_growth"`
	DiskGrowth   int64     `json:"disk_growth"`
	CopyUpBytes  int64     `json:"copy_up_bytes"`
	Causes       []string  `json:"causes"`
}

// Totals are a container's: bytes now, at the baseline, and since then. They tell
// the whole layer whatever filters are set; FilteredSizeGrowth and
// FilteredDiskGrowth are what the filters kept out of the growth records, so that
// growth records and filtered growth together make SizeGrowth and DiskGrowth.
type Totals struct {
	Container          Container `json:"container"`
	Size               int64     `json:"size"`
	Allocated          int64     `json:"allocated"`
	BaselineSize       int64     `json:"baseline_size"`
	BaselineAllocated  int64     `json:"baseline_allocated"`
	SizeGrowth         int64     `json:"size_growth"`
	DiskGrowth         int64     `json:"disk_growth"`
	WrittenBytes       uint64    `json:"written_bytes"`
	CopyUpBytes        int64     `json:"copy_up_bytes"`
	UnattributedSize   int64     `json:"unattributed_size"`
	UnattributedDisk   int64     `json:"unattributed_disk"`
	OpenDeletedBytes   int64     `json:"open_deleted_bytes"`
	FilteredSizeGrowth int64     `json:"filtered_size_growth,omitempty"`
	FilteredDiskGrowth int64     `json:"filtered_disk_growth,omitempty"`
}

// Layer is a container's totals at the end of an interval.
type Layer struct {
	Header
	Totals
	// Files is the number of inodes with a name, without directories and
	// whiteouts. An inode with several names counts once.
	Files int64 `json:"files"`
}

// Mount is one mount of a container.
type Mount struct {
	Class          string `json:"class"`
	Destination    string `json:"destination"`
	DestinationB64 string `json:"destination_b64,omitempty"`
	Source         string `json:"source,omitempty"`
	SourceB64      string `json:"source_b64,omitempty"`
	Name           string `json:"name,omitempty"`
	ReadOnly       bool   `json:"read_only,omitempty"`
}

// PathSize is a path with its sizes.
type PathSize struct {
	Path      string `json:"path"`
	PathB64   string `json:"path_b64,omitempty"`
	Size      int64  `json:"size"`
	Allocated int64  `json:"allocated"`
}

// Container events.
const (
	ContainerFound   = "found"
	ContainerStarted = "started"
	ContainerStopped = "stopped"
	ContainerRenamed = "renamed"
	ContainerRemoved = "removed"
)

// ContainerEvent is a change in a container's life.
type ContainerEvent struct {
	Header
	Event         string     `json:"event"`
	Container     Container  `json:"container"`
	UpperDir      string     `json:"upper_dir,omitempty"`
	UpperDirB64   string     `json:"upper_dir_b64,omitempty"`
	Driver        string     `json:"driver,omitempty"`
	Mounts        []Mount    `json:"mounts,omitzero"` // nil if not known
	LostSize      *int64     `json:"lost_size,omitempty"`
	LostAllocated *int64     `json:"lost_allocated,omitempty"`
	LostPaths     []PathSize `json:"lost_paths,omitzero"`
}

// LossUnresolved is a loss reason beside those of the kernel side: the path of a
// file could not be completed, with which no bytes are lost; or a container was gone
// before its layer was known, and then nobody can tell the bytes.
const LossUnresolved = "unresolved"

// Loss is written when a bound was hit. Bytes is the growth in size that could
// be given to the layer only as a whole; it is part of UnattributedSize.
type Loss struct {
	Header
	Container *Container `json:"container,omitempty"`
	Reason    string     `json:"reason"`
	Events    uint64     `json:"events"`
	Bytes     int64      `json:"bytes"`
}

// TopFile and TopProcess rank growth over the whole run.
type TopFile struct {
	Path         string `json:"path"`
	PathB64      string `json:"path_b64,omitempty"`
	SizeGrowth   int64  `json:"size_growth"`
	DiskGrowth   int64  `json:"disk_growth"`
	WrittenBytes uint64 `json:"written_bytes"`
}

// TopProcess ranks by process name and executable, over all their pids.
type TopProcess struct {
	Name          string `json:"name"`
	NameB64       string `json:"name_b64,omitempty"`
	Executable    string `json:"executable"`
	ExecutableB64 string `json:"executable_b64,omitempty"`
	Processes     int    `json:"processes"`
	SizeGrowth    int64  `json:"size_growth"`
	DiskGrowth    int64  `json:"disk_growth"`
	WrittenBytes  uint64 `json:"written_bytes"`
}

// ContainerSummary is one container's part of the summary.
type ContainerSummary struct {
	Totals
	Removed      bool           `json:"removed"`
	TopFiles     []TopFile      `json:"top_files"`
	TopProcesses []TopProcess   `json:"top_processes"`
	Covered      []CoveredTotal `json:"covered,omitempty"`
	Log          *LogTotals     `json:"log,omitempty"`
}

// CoveredTotal is what a container's processes wrote into one mount, present
// only when covered paths are traced. None of it is in the layer.
type CoveredTotal struct {
	Storage      Storage `json:"storage"`
	SizeGrowth   int64   `json:"size_growth"`
	WrittenBytes uint64  `json:"written_bytes"`
}

// LossTotal is the sum of the losses of one reason.
type LossTotal struct {
	Reason string `json:"reason"`
	Events uint64 `json:"events"`
	Bytes  int64  `json:"bytes"`
}

// Values of Summary.Ended.
const (
	EndedSignal         = "signal"
	EndedDuration       = "duration"
	EndedContainersGone = "containers_gone"
	EndedLimit          = "limit"
	EndedOutputClosed   = "output_closed"
	EndedError          = "error"
)

// Unlisted stands in a summary for removed containers that are not listed one by
// one, because a run may see any number of them.
type Unlisted struct {
	Containers   int64  `json:"containers"`
	SizeGrowth   int64  `json:"size_growth"`
	DiskGrowth   int64  `json:"disk_growth"`
	WrittenBytes uint64 `json:"written_bytes"`
}

// Summary is the last record.
type Summary struct {
	Header
	Containers []ContainerSummary `json:"containers"`
	Unlisted   *Unlisted          `json:"unlisted,omitempty"`
	Losses     []LossTotal        `json:"losses"`
	DurationMS int64              `json:"duration_ms"`
	Ended      string             `json:"ended"` // one of the Ended constants
}
