//go:build linux

package main

import (
	"fmt"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/test/workload/proto"
)

type opFunc func(a *opArgs, res *proto.Result) error

var ops = map[string]opFunc{
	"write":       writeOp(0),
	"append":      writeOp(unix.O_APPEND),
	"overwrite":   writeOp(unix.O_TRUNC),
	"pwrite":      pwriteOp,
	"writev":      writevOp,
	"rewrite":     rewriteOp,
	"bulk":        bulkOp,
	"torn":        tornOp,
	"interrupted": interruptedOp,
	"limit":       limitOp,
	"sync":        syncOp,
	"fill":        fillOp,

	"truncate":  truncateOp,
	"ftruncate": ftruncateOp,
	"fallocate": fallocateOp,

	"copyrange": copyRangeOp,
	"sendfile":  sendfileOp,
	"splice":    spliceOp,
	"vmsplice":  vmspliceOp,
	"clone":     cloneOp,
	"dedupe":    dedupeOp,

	"mmap":      mmapOp,
	"map":       mapOp,
	"store":     storeOp,
	"forkstore": forkStoreOp,
	"unmap":     unmapOp,

	"aio":   aioOp,
	"uring": uringOp,

	"create":    createOp,
	"mkdir":     mkdirOp,
	"rmdir":     rmdirOp,
	"removeall": removeAllOp,
	"symlink":   symlinkOp,
	"link":      linkOp,
	"rename":    renameOp,
	"unlink":    unlinkOp,
	"tmpfile":   tmpfileOp,
	"fifo":      fifoOp,
	"socket":    socketOp,
	"mknod":     mknodOp,
	"deepdirs":  deepDirsOp,

	"setxattr":    setxattrOp,
	"removexattr": removexattrOp,
	"setacl":      setACLOp,
	"open":        openOp,
	"chmod":       chmodOp,
	"chown":       chownOp,
	"utimes":      utimesOp,

	"keep":         keepOp,
	"release":      releaseOp,
	"keptwrite":    keptWriteOp,
	"keptallocate": keptAllocateOp,
	"adopt":        adoptOp,
	"listen":       listenOp,
	"sendfd":       sendFDOp,
	"receivefd":    receiveFDOp,

	"wait":    waitOp,
	"sleep":   sleepOp,
	"signal":  signalOp,
	"start":   startOp,
	"await":   awaitOp,
	"setns":   setnsOp,
	"mount":   mountOp,
	"unmount": unmountOp,

	"busy":     busyOp,
	"blink":    blinkOp,
	"storm":    stormOp,
	"reusepid": reusePIDOp,
}

// pattern makes a buffer, aligned to a page as direct I/O wants it, of bytes that
// are not zero, so that nothing between here and the disk can take them for a hole.
func pattern(n int64) []byte {
	page := uintptr(os.Getpagesize())
	b := make([]byte, n+int64(page))
	skip := (page - uintptr(unsafe.Pointer(&b[0]))%page) % page
	b = b[skip:][:n:n]
	for i := range b {
		b[i] = byte('a' + i%25)
		if i%80 == 79 {
			b[i] = '\n'
		}
	}
	return b
}

// pace waits between writes where every= says so.
func pace(every time.Duration) {
	if every > 0 {
		time.Sleep(every)
	}
}

func open(path string, flags int, mode uint32) (*os.File, error) {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, mode)
	if err != nil {
		return nil, fmt.Errorf("opening %q: %w", path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}
