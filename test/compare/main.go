//go:build linux

// Command compare changes a container's layer in one way after the other while layertrace and other
// tools watch, and prints, in markdown, what each of them says beside what is on the disk.
//
//	make compare [KERNEL=newest]
//
// It exits with 1 if anything that layertrace says is wrong, by one byte. What the others say is
// only reported, also if it is that they do not load on this kernel.
//
// It needs root, Docker with the overlay2 driver, bin/layertrace and bin/workload.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	layertrace = "bin/layertrace"
	workload   = "bin/workload"
	runLimit   = 4 * time.Minute
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	ctx, cancel := context.WithTimeout(ctx, runLimit)
	err := compare(ctx)
	cancel()
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "compare: %v\n", err)
		os.Exit(1)
	}
}

func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "compare: "+format+"\n", args...)
}

func compare(ctx context.Context) (err error) {
	dir, err := os.MkdirTemp("", "layertrace-compare-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := importImage(ctx, workload); err != nil {
		return err
	}
	defer func() {
		// Also after an interruption.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		err = errors.Join(err, removeAll(ctx))
	}()
	// Ends whatever still runs, before that.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	progress("starting the container")
	c, err := startContainer(ctx)
	if err != nil {
		return err
	}
	p, err := startPeers(ctx, dir, c.upper)
	if err != nil {
		return err
	}
	before, err := measure(c.upper)
	if err != nil {
		return err
	}
	lt, err := startLayertrace(ctx, dir)
	if err != nil {
		return err
	}
	rows, after, err := goThrough(ctx, c, p, before)
	if err != nil {
		return err
	}
	said, err := lt.stop()
	if err != nil {
		return fmt.Errorf("layertrace: %w", err)
	}
	f := p.stop()
	if err := c.end(); err != nil {
		return fmt.Errorf("ending the container: %w", err)
	}
	s, err := readStream(said, c.id, ways)
	if err != nil {
		return err
	}
	for i := range rows {
		s.judge(&rows[i])
	}
	if err := report(ctx, rows, f, p.failures); err != nil {
		return err
	}
	return verdict(rows, s.check(rows, before, after))
}

func startLayertrace(ctx context.Context, dir string) (*tool, error) {
	t, err := launch(ctx, dir, layertrace, "watch", containerName, "--output", "ndjson", "--include-mounts")
	if err != nil {
		return nil, err
	}
	progress("waiting for layertrace")
	// A write that starts after this record appeared is seen from its first byte.
	err = t.ready(func() (bool, error) {
		said, err := t.said()
		return strings.Contains(said, `"type":"session"`), err
	})
	if err != nil {
		return nil, fmt.Errorf("layertrace: %w", err)
	}
	return t, nil
}

// goThrough changes the layer in all ways and returns what it is at the end. It has been
// measured before.
func goThrough(ctx context.Context, c *container, p *peers, before sizes) (rows []row, after sizes, err error) {
	after = before
	for i := range ways {
		r := row{way: &ways[i]}
		progress("%s", r.way.name)
		if after, err = r.perform(ctx, c, p, after); err != nil {
			return nil, sizes{}, fmt.Errorf("%s: %w", r.way.name, err)
		}
		rows = append(rows, r)
	}
	return rows, after, nil
}

// perform goes one way and returns what the layer is afterwards. It was last measured
// after the way before.
func (r *row) perform(ctx context.Context, c *container, p *peers, last sizes) (after sizes, err error) {
	look := func() (sizes, int64, error) {
		s, err := measure(c.upper)
		if err != nil {
			return sizes{}, 0, err
		}
		n, err := dockerSize(ctx)
		return s, n, err
	}
	step := func() (int64, error) {
		if err := c.step(); err != nil {
			return 0, err
		}
		return c.waiting()
	}
	if _, err := step(); err != nil { // the preparation
		return sizes{}, err
	}
	before, dockerBefore, err := look()
	if err != nil {
		return sizes{}, err
	}
	if r.written, err = step(); err != nil {
		return sizes{}, err
	}
	if err := p.catchUp(); err != nil {
		return sizes{}, err
	}
	after, dockerAfter, err := look()
	if err != nil {
		return sizes{}, err
	}
	r.prep, r.change, r.docker = before.minus(last), after.minus(before), dockerAfter-dockerBefore
	if r.way.brief {
		return after, nil
	}
	if err := c.release(r.way.process()); err != nil {
		return sizes{}, err
	}
	_, err = c.waiting() // the first process, for the next way
	return after, err
}

// report prints where this was measured, the table and how to read it.
func report(ctx context.Context, rows []row, f findings, failures map[string]error) error {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return err
	}
	version, err := docker(ctx, nil, "version", "--format", "{{.Server.Version}}")
	if err != nil {
		return err
	}
	fmt.Printf("Linux %s, Docker %s with overlay2, one container, one run; beside layertrace ran %s.\n\n%s%s",
		unix.ByteSliceToString(name.Release[:]), version, strings.Join(packages(ctx), ", "), table(rows, f), legend)
	for _, name := range []string{filetopName, bpftraceName, fatraceName} {
		if err := failures[name]; err != nil {
			fmt.Printf("\n`%s` did not work on this kernel: `%v`\n", name, err)
		}
	}
	return nil
}

const legend = `
Each row is the work of one process. Numbers are changes, to the byte (` + "`filetop`" + ` shows whole KiB). A row
is right, for layertrace, if process, path, growth in size and on the disk, the bytes written and the causes
are; for ` + "`filetop`" + ` and the bpftrace script, which add up what goes through ` + "`vfs_write`" + `, if their sum is the
layer's change in size or on the disk; for ` + "`docker ps -s`" + ` (here unrounded), which knows neither processes
nor disk use, if the change in size is. ` + "`fatrace`" + ` reports events, not bytes: W written, or closed after
being open for writing, + created, D deleted, < > moved.
`

// packages are the versions of the peers' packages, where they come from Debian.
func packages(ctx context.Context) []string {
	var all []string
	for _, name := range []string{"libbpf-tools", "bpftrace", "fatrace"} {
		version, err := exec.CommandContext(ctx, "dpkg-query", "--show", "--showformat", "${Version}", name).Output()
		if err != nil {
			version = []byte("of unknown version")
		}
		all = append(all, name+" "+string(bytes.TrimSpace(version)))
	}
	return all
}

// verdict is an error if layertrace was wrong anywhere.
func verdict(rows []row, totals []string) error {
	problems := slices.Clone(totals)
	for i := range rows {
		for _, what := range rows[i].wrong {
			problems = append(problems, rows[i].way.name+": "+what)
		}
	}
	if problems == nil {
		return nil
	}
	return fmt.Errorf("layertrace was wrong:\n  %s", strings.Join(problems, "\n  "))
}
