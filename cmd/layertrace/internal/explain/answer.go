// Package explain says where the bytes of a path in a container are, and what
// becomes of them.
package explain

import "github.com/layertrace/layertrace/internal/record"

// TypeExplanation is the "type" of an Answer.
const TypeExplanation = "explanation"

// originImage is an origin beside those of the stream: the layer holds nothing of
// the path, which is the image's.
const originImage = "image"

// Answer is what there is to say of a path. Sizes are bytes; those that are not
// known, or of something that does not exist, are nil.
type Answer struct {
	Type      string           `json:"type"`
	V         int              `json:"v"`
	Time      record.Time      `json:"time"`
	Container record.Container `json:"container"`
	State     string           `json:"state"`

	// Path is the one that was asked for; Resolved is where it leads to.
	Path        string `json:"path"`
	PathB64     string `json:"path_b64,omitempty"`
	Resolved    string `json:"resolved"`
	ResolvedB64 string `json:"resolved_b64,omitempty"`
	Links       []Link `json:"symlinks"`
	// Exists is nil if nobody can say.
	Exists *bool `json:"exists"`
	// Parent is the deepest directory that exists, of a path that does not.
	Parent    string `json:"parent,omitempty"`
	ParentB64 string `json:"parent_b64,omitempty"`
	Kind      string `json:"kind,omitempty"` // file, directory, symlink, device, fifo, socket

	Storage record.Storage `json:"storage"`
	Mount   *Mount         `json:"mount,omitempty"`
	// Origin is one of the record.Origin words or originImage; of the layer only.
	Origin   string `json:"origin,omitempty"`
	InImage  bool   `json:"in_image"` // the image has something of this name
	ReadOnly bool   `json:"read_only"`

	HostPath    string `json:"host_path,omitempty"`
	HostPathB64 string `json:"host_path_b64,omitempty"`

	Size      *int64 `json:"size,omitempty"`
	Allocated *int64 `json:"allocated,omitempty"`
	Tree      *Tree  `json:"tree,omitempty"`

	Fate  Fate     `json:"fate"`
	Notes []string `json:"notes"`
	// Output is the container's log, if it keeps one in files.
	Output *Log `json:"log,omitempty"`
}

// Link is a symlink that was followed.
type Link struct {
	Path      string `json:"path"`
	PathB64   string `json:"path_b64,omitempty"`
	Target    string `json:"target"`
	TargetB64 string `json:"target_b64,omitempty"`
}

// Mount is the mount that the path lies on, if it is not the root.
type Mount struct {
	FSType string `json:"fs_type,omitempty"`
	// Declared tells that it belongs to the container's configuration; others were
	// made while it runs.
	Declared  bool `json:"declared"`
	Anonymous bool `json:"anonymous,omitempty"`
}

// Tree is how large a directory is with everything in it that lies on the same
// storage: of the layer, what of it is in the layer.
type Tree struct {
	Size        int64 `json:"size"`
	Allocated   int64 `json:"allocated"`
	Files       int64 `json:"files"`
	Directories int64 `json:"directories"`
	Whiteouts   int64 `json:"whiteouts"`
}

// Log is the container's log.
type Log struct {
	Driver    string `json:"driver"`
	Path      string `json:"path"`
	PathB64   string `json:"path_b64,omitempty"`
	Files     int64  `json:"files"`
	Size      int64  `json:"size"`
	Allocated int64  `json:"allocated"`
}

// Outcomes.
const (
	Kept     = "kept"
	Lost     = "lost"
	Restored = "restored" // comes back as the image has it
	Renewed  = "renewed"  // made anew by the runtime
	Included = "included" // in the image that docker commit makes
	LeftOut  = "left_out"
	Unknown  = "unknown"
)

// Outcome is what becomes of the path's content, and why.
type Outcome struct {
	Outcome string `json:"outcome"`
	Why     string `json:"why"`
}

// Fate is what becomes of the path's content when something happens to the
// container.
type Fate struct {
	Stop          Outcome `json:"stop"`
	Restart       Outcome `json:"restart"`
	Remove        Outcome `json:"rm"`
	RemoveVolumes Outcome `json:"rm_volumes"`
	Commit        Outcome `json:"commit"`
	Recreate      Outcome `json:"recreate"`
}
