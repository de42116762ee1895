//go:build linux

package main

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTable(t *testing.T) {
	list := []work{{name: "a write"}, {name: "a rename"}}
	r := newResults(list, []mode{{name: untraced}, {name: empty}, {name: layertrace}, {name: "filetop"}})
	for _, took := range []float64{1000, 3000, 2000} {
		r.add(0, untraced, took)
		r.add(0, empty, took*1.1)
		r.add(0, layertrace, took*1.21)
	}
	r.add(1, untraced, 1234567)
	r.failed["filetop"] = errors.New("filetop does not work here")
	var b strings.Builder
	r.print(&b)
	want := `
| work | untraced, ns | empty programs | layertrace | layertrace ÷ empty | filetop |
|---|--:|--:|--:|--:|--:|
| a write | 2,000 | 1.100 (1.10–1.10) | 1.210 (1.21–1.21) | 1.100 (1.10–1.10) | - |
| a rename | 1,234,567 | - | - | - | - |

filetop does not work here
`
	if got := b.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1, 2}, 2}, {[]float64{4, 1, 2, 9}, 3}} {
		if got := median(c.values); got != c.want {
			t.Errorf("median(%v) = %v, want %v", c.values, got, c.want)
		}
	}
}

func TestArchive(t *testing.T) {
	path := filepath.Join(t.TempDir(), "archive.tar")
	if err := writeArchive(path, 150); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	files, dirs := 0, 0
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeDir {
			dirs++
		} else {
			files++
		}
	}
	if files != 150 || dirs != 2 {
		t.Errorf("%d files and %d directories", files, dirs)
	}
}

func TestMountOf(t *testing.T) {
	_, kind, err := mountOf("/proc/self")
	if err != nil || kind != "proc" {
		t.Errorf("/proc/self is on %q, %v", kind, err)
	}
}

func TestModes(t *testing.T) {
	if _, err := modesOf([]string{"nothing"}); err == nil {
		t.Error("a peer that there is not was accepted")
	}
	modes, err := modesOf([]string{"fatrace", "filetop"})
	if err != nil || len(modes) != 5 || modes[3].name != "fatrace" {
		t.Errorf("modes: %+v, %v", modes, err)
	}
}
