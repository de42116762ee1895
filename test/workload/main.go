//go:build linux

// Command workload does known things to files, one at a time, and says what it
// did. The tests run it inside containers, under many names, and compare what
// it said with what layertrace saw.
//
//	workload OP key=value… [then OP key=value…]…   run operations in one process
//	workload serve SOCKET LINKDIR [OP …]           run processes on request
//
// Every operation prints one JSON line (package proto). Sizes are plain bytes.
// It is built without cgo, so that it runs in an image that holds nothing else.
package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/test/workload/proto"
)

func main() {
	args := os.Args[1:]
	if len(args) == 0 {
		usage()
	}
	if args[0] == "serve" {
		if len(args) < 3 {
			usage()
		}
		if err := serve(args[1], args[2], args[3:]); err != nil {
			fatal(err)
		}
		return
	}
	if err := runAll(args); err != nil {
		fatal(err)
	}
}

func usage() {
	names := make([]string, 0, len(ops))
	for name := range ops {
		names = append(names, name)
	}
	sort.Strings(names)
	fmt.Fprintf(os.Stderr, "usage: workload OP key=value… [then OP …]… | workload serve SOCKET LINKDIR\noperations: %s\n", strings.Join(names, " "))
	os.Exit(2)
}

func fatal(err error) {
	fmt.Fprintf(os.Stderr, "workload: %v\n", err)
	os.Exit(1)
}

// runAll runs "OP key=value… then OP …". An operation that fails ends the
// process, unless its arguments say errno=NAME|NAME… and it failed with one of
// these.
func runAll(args []string) error {
	for len(args) > 0 {
		end := slices.Index(args, "then")
		if end < 0 {
			end = len(args)
		}
		if end == 0 {
			return errors.New("operation missing around \"then\"")
		}
		if err := runOne(args[0], args[1:end]); err != nil {
			return fmt.Errorf("%s: %w", strings.Join(args[:end], " "), err)
		}
		args = args[min(end+1, len(args)):]
	}
	return nil
}

func runOne(name string, raw []string) error {
	op, ok := ops[name]
	if !ok {
		return fmt.Errorf("unknown operation %q", name)
	}
	a := &opArgs{values: map[string]string{}}
	for _, kv := range raw {
		k, v, ok := strings.Cut(kv, "=")
		if !ok {
			return fmt.Errorf("argument %q is not key=value", kv)
		}
		a.values[k] = v
	}
	res := &proto.Result{Op: name, Path: []byte(a.values["path"]), SizeBefore: -1, SizeAfter: -1, DiskBefore: -1, DiskAfter: -1}
	path := a.values["path"]
	if path != "" {
		res.SizeBefore, res.DiskBefore = statSizes(path)
	}
	allowed := strings.Split(a.text("errno", ""), "|")
	err := op(a, res)
	if err == nil {
		err = a.problem()
	}
	if path != "" {
		res.SizeAfter, res.DiskAfter = statSizes(path)
	}
	if err != nil {
		var errno unix.Errno
		if errors.As(err, &errno) {
			res.Errno = unix.ErrnoName(errno)
			if errno == unix.EOPNOTSUPP { // has two names
				res.Errno = "EOPNOTSUPP"
			}
		}
		if res.Errno == "" || !slices.Contains(allowed, res.Errno) {
			return err
		}
	}
	_, err = os.Stdout.Write(proto.Line{Result: res}.Encode())
	return err
}

func statSizes(path string) (size, disk int64) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return -1, -1
	}
	return st.Size, st.Blocks * 512
}

// opArgs are one operation's arguments. The first that is missing or cannot be
// read is remembered; so is any that nobody asked for, which is a typing error.
type opArgs struct {
	values map[string]string
	used   []string
	err    error
}

func (a *opArgs) text(key, def string) string {
	a.used = append(a.used, key)
	if v, ok := a.values[key]; ok {
		return v
	}
	return def
}

func (a *opArgs) path(key string) string {
	v := a.text(key, "")
	if v == "" {
		a.fail("argument %s is missing", key)
	}
	return v
}

// given tells whether key= is there with any value but an empty one.
func (a *opArgs) given(key string) bool { return a.text(key, "") != "" }

func (a *opArgs) number(key string, def int64) int64 {
	v := a.text(key, "")
	if v == "" {
		return def
	}
	n, err := strconv.ParseInt(v, 0, 64)
	if err != nil {
		a.fail("argument %s=%s: %v", key, v, err)
	}
	return n
}

func (a *opArgs) duration(key string) time.Duration {
	v := a.text(key, "0")
	if v == "0" {
		return 0
	}
	d, err := time.ParseDuration(v)
	if err != nil {
		a.fail("argument %s=%s: %v", key, v, err)
	}
	return d
}

func (a *opArgs) fail(format string, args ...any) {
	if a.err == nil {
		a.err = fmt.Errorf(format, args...)
	}
}

func (a *opArgs) problem() error {
	if a.err != nil {
		return a.err
	}
	for k := range a.values {
		if !slices.Contains(a.used, k) {
			return fmt.Errorf("unknown argument %q", k)
		}
	}
	return nil
}
