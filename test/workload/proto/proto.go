// Package proto is what the workload program and the tests that drive it say to
// each other: one JSON object a line, over a unix socket for requests and over
// standard output for results. Strings that may hold any byte are []byte, which
// JSON carries as base64.
package proto

import (
	"encoding/json"
	"fmt"
)

// Request asks a serving workload program to run one process.
type Request struct {
	// Name becomes the process's name (comm): the server makes a symlink of
	// that name to Exe in its link directory and executes the symlink. If
	// empty, Exe is executed by its own name.
	Name []byte `json:"name,omitempty"`
	// Exe is the executable; empty means the workload program itself.
	Exe  string   `json:"exe,omitempty"`
	Args [][]byte `json:"args"`
}

// Result is what one operation of the workload program did. The numbers are
// what system calls returned and what fstat said, never what was asked for.
type Result struct {
	Op      string `json:"op"`
	Path    []byte `json:"path,omitempty"`
	Written int64  `json:"written"` // bytes that write-like calls returned
	Writes  int64  `json:"writes"`  // how many such calls
	// SizeBefore and SizeAfter are st_size of Path (of what Path named before
	// and names after); -1 where there is or was no such file.
	SizeBefore int64 `json:"size_before"`
	SizeAfter  int64 `json:"size_after"`
	DiskBefore int64 `json:"disk_before"` // st_blocks*512, or -1
	DiskAfter  int64 `json:"disk_after"`
	// Errno is the name of the error that the operation ended with, if any.
	Errno string `json:"errno,omitempty"`
	// Detail is for people.
	Detail string `json:"detail,omitempty"`
}

// String is for messages.
func (r Result) String() string {
	text := fmt.Sprintf("%s %q wrote %d in %d, size %d to %d, disk %d to %d", r.Op, r.Path, r.Written, r.Writes, r.SizeBefore, r.SizeAfter, r.DiskBefore, r.DiskAfter)
	if r.Errno != "" {
		text += ", " + r.Errno
	}
	return text
}

// Growth is the change of st_size of the result's path.
func (r Result) Growth() int64 { return max(r.SizeAfter, 0) - max(r.SizeBefore, 0) }

// Exit is how a process ended. PID is as seen inside the container.
type Exit struct {
	PID    int    `json:"pid"`
	Code   int    `json:"code"` // -1 if a signal ended it
	Signal string `json:"signal,omitempty"`
	Error  string `json:"error,omitempty"` // it could not be started
}

// Line is any line that comes back for a request: exactly one field is set.
type Line struct {
	Result *Result `json:"result,omitempty"`
	Exit   *Exit   `json:"exit,omitempty"`
	// Text is a line that is not ours: what a foreign program printed.
	Text string `json:"-"`
}

// ParseLine reads one line.
func ParseLine(b []byte) Line {
	var l Line
	if err := json.Unmarshal(b, &l); err != nil || (l.Result == nil && l.Exit == nil) {
		return Line{Text: string(b)}
	}
	return l
}

// Encode makes one line, newline included.
func (l Line) Encode() []byte {
	b, err := json.Marshal(l)
	if err != nil {
		panic(fmt.Sprintf("encoding %+v: %v", l, err))
	}
	return append(b, '\n')
}
