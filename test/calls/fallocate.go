//go:build linux

package calls

import "golang.org/x/sys/unix"

// FallocateModes are the modes of fallocate(2) by the names that tests give them.
var FallocateModes = map[string]uint32{
	"plain":    0,
	"keep":     unix.FALLOC_FL_KEEP_SIZE,
	"punch":    unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE,
	"zero":     unix.FALLOC_FL_ZERO_RANGE,
	"zerokeep": unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE,
	"collapse": unix.FALLOC_FL_COLLAPSE_RANGE,
	"insert":   unix.FALLOC_FL_INSERT_RANGE,
}
