//go:build linux

package calls

import "golang.org/x/sys/unix"

// Dedupe lets so many bytes at an offset of `to` share the extents of those at another
// of `from`, and returns how many do now: none if they are not the same.
func Dedupe(from, to int, fromOffset, toOffset, size int64) (int64, error) {
	request := unix.FileDedupeRange{
		Src_offset: uint64(fromOffset), Src_length: uint64(size),
		Info: []unix.FileDedupeRangeInfo{{Dest_fd: int64(to), Dest_offset: uint64(toOffset)}},
	}
	if err := unix.IoctlFileDedupeRange(from, &request); err != nil {
		return 0, err
	}
	got := request.Info[0]
	if got.Status < 0 {
		return 0, unix.Errno(-got.Status)
	}
	if got.Status != unix.FILE_DEDUPE_RANGE_SAME {
		return 0, nil
	}
	return int64(got.Bytes_deduped), nil
}
