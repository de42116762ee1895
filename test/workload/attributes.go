//go:build linux

package main

import (
	"bytes"
	"encoding/binary"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/test/workload/proto"
)

func setxattrOp(a *opArgs, _ *proto.Result) error {
	return unix.Setxattr(a.path("path"), a.text("name", "user.big"), pattern(a.number("size", 0)), 0)
}

func removexattrOp(a *opArgs, _ *proto.Result) error {
	return unix.Removexattr(a.path("path"), a.text("name", "user.big"))
}

// setACLOp gives path=, or with kind=default what will be made in it, an access
// control list that names entries= users.
func setACLOp(a *opArgs, _ *proto.Result) error {
	const (
		version                                    = 2
		userObject, user, groupObject, mask, other = 1, 2, 4, 16, 32
	)
	type entry struct {
		Tag, Permissions uint16
		ID               uint32
	}
	nobody := ^uint32(0)
	list := []entry{{userObject, 6, nobody}}
	for i := range a.number("entries", 1) {
		list = append(list, entry{user, 4, uint32(1000 + i)})
	}
	list = append(list, entry{groupObject, 4, nobody}, entry{mask, 4, nobody}, entry{other, 4, nobody})
	var value bytes.Buffer
	for _, part := range []any{uint32(version), list} {
		if err := binary.Write(&value, binary.LittleEndian, part); err != nil {
			return err
		}
	}
	return unix.Setxattr(a.path("path"), "system.posix_acl_"+a.text("kind", "access"), value.Bytes(), 0)
}

// walk applies fn to path, or with recurse= to everything below it as well,
// contents before their directory, as chown -R does not but may.
func walk(a *opArgs, fn func(path string) error) error {
	path := a.path("path")
	if !a.given("recurse") {
		return fn(path)
	}
	return filepath.WalkDir(path, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return fn(p)
	})
}

func chmodOp(a *opArgs, _ *proto.Result) error {
	mode := uint32(a.number("mode", 0o600))
	return walk(a, func(p string) error { return unix.Chmod(p, mode) })
}

func chownOp(a *opArgs, _ *proto.Result) error {
	uid, gid := int(a.number("uid", 7)), int(a.number("gid", 7))
	return walk(a, func(p string) error { return unix.Lchown(p, uid, gid) })
}

func utimesOp(a *opArgs, _ *proto.Result) error {
	when := time.Unix(a.number("unix", 1_000_000_000), 0)
	return walk(a, func(p string) error { return os.Chtimes(p, when, when) })
}
