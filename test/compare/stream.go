//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/layertrace/layertrace/internal/record"
)

// account is what layertrace charges a process with.
type account struct {
	sizes
	written   uint64 // to the layer
	covered   uint64 // to a volume or another mount
	class     string // of that
	causes    []string
	misplaced []string // single records with a wrong process or path
}

// stream is what layertrace said of the container.
type stream struct {
	ways     map[string]*way // by process
	accounts map[string]*account
	last     record.Layer
	prep     sizes    // growth by the preparations
	grown    sizes    // by all records of the layer together
	strange  []string // growth by nobody who was asked to, and losses
}

// readStream reads the records of the container with that id.
func readStream(text, id string, ways []way) (*stream, error) {
	s := &stream{ways: map[string]*way{}, accounts: map[string]*account{}}
	for i := range ways {
		s.ways[ways[i].process()] = &ways[i]
		s.accounts[ways[i].process()] = &account{}
	}
	for line := range strings.Lines(text) {
		if err := s.take([]byte(line), id); err != nil {
			return nil, fmt.Errorf("layertrace said %q: %w", line, err)
		}
	}
	if s.last.Type == "" {
		return nil, errors.New("layertrace said nothing of the layer")
	}
	return s, nil
}

func (s *stream) take(line []byte, id string) error {
	var head record.Header
	if err := json.Unmarshal(line, &head); err != nil {
		return err
	}
	switch head.Type {
	case record.TypeGrowth:
		var g record.Growth
		if err := json.Unmarshal(line, &g); err != nil {
			return err
		}
		if g.Container.ID == id {
			s.add(&g)
		}
	case record.TypeLayer:
		var l record.Layer
		if err := json.Unmarshal(line, &l); err != nil {
			return err
		}
		if l.Container.ID == id {
			s.last = l
		}
	case record.TypeLoss:
		var l record.Loss
		if err := json.Unmarshal(line, &l); err != nil {
			return err
		}
		if l.Container == nil || l.Container.ID == id {
			s.strange = append(s.strange, fmt.Sprintf("%d events and %d bytes are said to be lost: %s", l.Events, l.Bytes, l.Reason))
		}
	}
	return nil
}

func (s *stream) add(g *record.Growth) {
	if g.Process == nil || slices.Contains(g.Causes, record.CauseUnattributed) {
		s.strange = append(s.strange, fmt.Sprintf("%s is said to have grown by %d, %d on the disk, by nobody knows whom", g.File.Path, g.SizeGrowth, g.DiskGrowth))
	}
	name := ""
	if g.Process != nil {
		name = g.Process.Name
	}
	inLayer := g.Storage.Class == record.ClassLayer
	if inLayer {
		s.grown.size += g.SizeGrowth
		s.grown.disk += g.DiskGrowth
	}
	if inLayer && name == prepName && g.Process.Executable == "/bin/"+prepName && strings.HasPrefix(g.File.Path+"/", workDir+"/") {
		s.prep.size += g.SizeGrowth
		s.prep.disk += g.DiskGrowth
		return
	}
	a := s.accounts[name]
	if a == nil {
		if inLayer && g.Process != nil && (g.SizeGrowth != 0 || g.DiskGrowth != 0) {
			s.strange = append(s.strange, fmt.Sprintf("process %q is said to have grown %s by %d, %d on the disk", name, g.File.Path, g.SizeGrowth, g.DiskGrowth))
		}
		return
	}
	if exe := "/bin/" + name; g.Process.Executable != exe || g.Process.ContainerID != g.Container.ID {
		a.misplaced = append(a.misplaced, fmt.Sprintf("the process is said to be %s in container %q", g.Process.Executable, g.Process.ContainerID))
	}
	if !inLayer {
		a.covered += g.WrittenBytes
		a.class = g.Storage.Class
		return
	}
	a.size += g.SizeGrowth
	a.disk += g.DiskGrowth
	a.written += g.WrittenBytes
	for _, cause := range g.Causes {
		if !slices.Contains(a.causes, cause) {
			a.causes = append(a.causes, cause)
		}
	}
	if g.File.Path == s.ways[name].target() {
		return
	}
	// A directory takes its part of the disk, and no size.
	if g.SizeGrowth != 0 || g.DiskGrowth != 0 && g.File.Origin != record.OriginDirectory {
		a.misplaced = append(a.misplaced, fmt.Sprintf("%s is said to have grown by %d, %d on the disk", g.File.Path, g.SizeGrowth, g.DiskGrowth))
	}
}

// judge holds what layertrace said of the way's process against the disk.
func (s *stream) judge(r *row) {
	r.account = *s.accounts[r.way.process()]
	slices.Sort(r.account.causes) // one order in every run
	r.wrong = r.account.misplaced
	differs := func(what string, got, want int64) {
		if got != want {
			r.wrong = append(r.wrong, fmt.Sprintf("%s is said to be %d and is %d", what, got, want))
		}
	}
	differs("the growth in size", r.account.size, r.change.size)
	differs("the growth on the disk", r.account.disk, r.change.disk)
	differs("what was written", int64(r.account.written+r.account.covered), r.written)
	if said := r.account.causes; !r.way.caused(said) {
		r.wrong = append(r.wrong, fmt.Sprintf("the causes are said to be %q and are %q", strings.Join(said, " "), r.way.causes))
	}
}

// caused tells whether these are the way's causes. Where an interval ends within a call, the
// blocks that it has allocated by then are told of as written (docs/known-limits.md).
func (w *way) caused(said []string) bool {
	late := slices.ContainsFunc([]string{record.CauseAllocate, record.CauseMmap, record.CauseTruncate}, func(cause string) bool {
		return slices.Contains(strings.Fields(w.causes), cause)
	})
	if late {
		said = slices.DeleteFunc(slices.Clone(said), func(cause string) bool { return cause == record.CauseWrite })
	}
	return slices.Equal(said, strings.Fields(w.causes))
}

// check holds the totals against what the layer was when layertrace came, and what it is.
func (s *stream) check(rows []row, before, after sizes) []string {
	wrong := s.strange
	differs := func(what string, got, want sizes) {
		if got != want {
			wrong = append(wrong, fmt.Sprintf("%s: size %d and disk %d are said, %d and %d are right", what, got.size, got.disk, want.size, want.disk))
		}
	}
	differs("the layer at the start", sizes{s.last.BaselineSize, s.last.BaselineAllocated}, before)
	differs("the layer at the end", sizes{s.last.Size, s.last.Allocated}, after)
	differs("all growth together", s.grown, after.minus(before))
	differs("what is unattributed", sizes{s.last.UnattributedSize, s.last.UnattributedDisk}, sizes{})
	var prep sizes
	for i := range rows {
		prep.size += rows[i].prep.size
		prep.disk += rows[i].prep.disk
	}
	differs("what was prepared", s.prep, prep)
	return wrong
}
