package record

// TypeLog is the "type" of a Log record.
const TypeLog = "log"

// ClassLog is the storage class of what a container writes to its standard output
// and error, where the runtime keeps that in files. It fills the same disk as the
// layer and is no part of it.
const ClassLog = "log"

// LogTotals is how large a container's log is: the file that is being written
// and those that were rotated away, together. Path is the former's, on the host.
type LogTotals struct {
	Driver            string `json:"driver"`
	Path              string `json:"path"`
	PathB64           string `json:"path_b64,omitempty"`
	Files             int64  `json:"files"`
	Size              int64  `json:"size"`
	Allocated         int64  `json:"allocated"`
	BaselineSize      int64  `json:"baseline_size"`
	BaselineAllocated int64  `json:"baseline_allocated"`
	SizeGrowth        int64  `json:"size_growth"`
	DiskGrowth        int64  `json:"disk_growth"`
}

// Log is a container's log at the end of an interval. Storage is always that of
// class ClassLog: none of it counts into the layer's totals.
type Log struct {
	Header
	Container Container `json:"container"`
	Storage   Storage   `json:"storage"`
	LogTotals
}
