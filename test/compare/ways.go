//go:build linux

package main

import (
	"slices"
	"strings"
)

// way is one way to change what a container keeps, done by a process of its own. In its command
// lines @ stands for a path of the way's own.
type way struct {
	// title says it to the reader, in markdown.
	title string
	name  string
	prep  string // done before, by a process called prep
	do    string
	path  string // what it changes; @ if empty
	// causes are what layertrace has to say, in alphabetical order: of the layer only.
	causes string
	// brief: the process ends at once. The others live until everybody has had the time to look.
	brief bool
}

const (
	prepName   = "prep"
	workDir    = "/w"
	volumeDir  = "/data"
	imageFile  = "/img/model.bin" // its directory is of the image too
	imageBytes = 3_700_000
)

var ways = []way{
	{title: "`write(2)`", name: "write", do: "write path=@ size=1048576", causes: "create write"},
	{title: "the same 4 KiB rewritten 51 times", name: "rewrite", do: "create path=@ then rewrite path=@ size=4096 count=51", causes: "create write"},
	{title: "`pwritev2`", name: "pwritev2", do: "writev kind=pwritev2 path=@ size=1048576 chunk=65536", causes: "create write"},
	{title: "io_uring", name: "io_uring", do: "uring path=@ size=1048576", causes: "create write"},
	{title: "libaio with `O_DIRECT`", name: "libaio", do: "aio path=@ size=1048576 direct=1", causes: "create write"},
	{title: "stores to a shared mapping of a sparse file of 1 MiB", name: "mmap", prep: "create path=@ then truncate path=@ size=1048576", do: "mmap path=@ size=1048576", causes: "mmap"},
	{title: "`fallocate`", name: "fallocate", do: "fallocate path=@ size=1048576", causes: "allocate create"},
	{title: "`copy_file_range`", name: "copyrange", prep: "write path=@.from size=1048576", do: "copyrange from=@.from path=@", causes: "create write"},
	{title: "`sendfile`", name: "sendfile", prep: "write path=@.from size=1048576", do: "sendfile from=@.from path=@", causes: "create write"},
	{title: "`splice`", name: "splice", prep: "write path=@.from size=1048576", do: "splice from=@.from path=@", causes: "create write"},
	{title: "`truncate -s 1M` (sparse)", name: "truncate", prep: "create path=@", do: "truncate path=@ size=1048576", causes: "truncate"},
	{title: "`chown` of an image file of 3.7 MB: copied up, with its directory", name: "chown", do: "chown path=" + imageFile, path: imageFile, causes: "copy_up metadata"},
	{title: "256 KiB renamed over 1 MiB", name: "rename", prep: "write path=@ size=1048576 then write path=@.new size=262144", do: "rename from=@.new path=@", causes: "delete rename"},
	{title: "`unlink` of 1 MiB", name: "unlink", prep: "write path=@ size=1048576", do: "unlink path=@", causes: "delete"},
	{title: "1 MiB into a volume", name: "volume", do: "write path=" + volumeDir + "/upload size=1048576", path: volumeDir + "/upload"},
	{title: "4 KiB appended by a process that ends at once", name: "brief", prep: "write path=@ size=10000", do: "append path=@ size=4096", causes: "write", brief: true},
}

// process is what the kernel calls the way's process.
func (w *way) process() string { return "w-" + w.name }

func (w *way) own() string { return workDir + "/" + w.name }

// target is what the way changes.
func (w *way) target() string {
	if w.path != "" {
		return w.path
	}
	return w.own()
}

// start is the operation that runs do as a process of that name.
func (w *way) start(process, do string) []string {
	words := strings.Fields(strings.ReplaceAll(do, "@", w.own()))
	return []string{"start", "exe=/bin/" + process, "args=" + strings.Join(words, ",")}
}

// service is the command line of the container's first process. It waits for a signal to begin, and
// around each of the ways: [prep,] wait, the way, wait. The way's process waits for one too, unless
// it is brief.
func service(ways []way) []string {
	line := []string{"/bin/workload", "mkdir", "path=" + workDir}
	then := func(words ...string) { line = append(append(line, "then"), words...) }
	then("signal")
	for i := range ways {
		w := &ways[i]
		if w.prep != "" {
			then(w.start(prepName, w.prep)...)
			then("await")
		}
		then("signal")
		do := w.do
		if !w.brief {
			do += " then signal"
		}
		then(w.start(w.process(), do)...)
		then("await")
		then("signal")
	}
	return line
}

// programs are the names by which the workload program has to be in the image.
func programs(ways []way) []string {
	names := []string{prepName}
	for i := range ways {
		names = append(names, ways[i].process())
	}
	slices.Sort(names)
	return names
}
