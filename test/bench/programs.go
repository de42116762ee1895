//go:build linux

package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// writeArchive makes an archive of small files, a hundred to a directory.
func writeArchive(path string, files int) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	tw := tar.NewWriter(f)
	for i := range files {
		if i%100 == 0 {
			err = errors.Join(err, tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: fmt.Sprintf("tree/%d/", i/100), Mode: 0o755}))
		}
		content := bytes.Repeat([]byte("small\n"), 1+i%500)
		err = errors.Join(err, tw.WriteHeader(&tar.Header{
			Typeflag: tar.TypeReg, Name: fmt.Sprintf("tree/%d/%d", i/100, i), Mode: 0o644, Size: int64(len(content)),
		}))
		_, werr := tw.Write(content)
		err = errors.Join(err, werr)
	}
	if err := errors.Join(err, tw.Close(), f.Close()); err != nil {
		return fmt.Errorf("writing an archive: %w", err)
	}
	return nil
}

const program = `
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
int main(int argc, char **argv) { for (int i = 0; i < argc; i++) printf("%zu %s\n", strlen(argv[i]), argv[i]); return EXIT_SUCCESS; }
`

// sqlScript fills a table in many small transactions and in one large one.
func sqlScript() string {
	var b strings.Builder
	b.WriteString("create table t (k integer primary key, v text);\n")
	for i := range 20 {
		fmt.Fprintf(&b, "insert into t values (%d, hex(randomblob(100)));\n", i)
	}
	b.WriteString("with recursive n(i) as (select 1000 union all select i+1 from n where i < 3000) insert into t select i, hex(randomblob(100)) from n;\n")
	b.WriteString("update t set v = hex(randomblob(100)) where k % 3 = 0;\n")
	return b.String()
}

// wholePrograms are programs that people run, each one operation; missing are those that are not
// installed.
func wholePrograms(o *options) (list []work, missing []string) {
	workload := must(filepath.Abs("bin/workload")) // since it runs elsewhere
	for _, p := range []struct {
		name    string
		command []string
		input   string
	}{
		{fmt.Sprintf("untar of %d small files", o.files), []string{"tar", "-xf", "ARCHIVE"}, ""},
		{"database (sqlite3)", []string{"sqlite3", "database"}, sqlScript()},
		{"random writes (fio)", []string{"fio", "--name=random", "--rw=randwrite", "--bs=4k", "--size=4m", "--ioengine=psync", "--thread", "--output=fio.log"}, ""},
		{"4 MiB written by io_uring", []string{workload, "uring", "path=uring", "size=4194304", "chunk=4096"}, ""},
		{"compile (gcc)", []string{"gcc", "-O2", "-x", "c", "-c", "-o", "program.o", "-"}, program},
	} {
		if _, err := exec.LookPath(p.command[0]); err != nil {
			missing = append(missing, p.command[0])
			continue
		}
		list = append(list, work{p.name, 1, children, func(o *overlay) (func(int) error, func() error, error) {
			args := strings.Split(strings.ReplaceAll(strings.Join(p.command[1:], "\x00"), "ARCHIVE", o.g.archive), "\x00")
			return func(int) error {
				cmd := exec.Command(p.command[0], args...)
				cmd.Dir, cmd.Stdin = o.merged, strings.NewReader(p.input)
				// What compilers keep for a while is in the layer too.
				cmd.Env = append(os.Environ(), "TMPDIR="+o.merged)
				if out, err := cmd.CombinedOutput(); err != nil {
					return fmt.Errorf("%w: %s", err, bytes.TrimSpace(out))
				}
				return nil
			}, nothing, nil
		}})
	}
	return list, missing
}
