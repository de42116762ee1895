package tracer

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/layertrace/layertrace/tracer/event"
)

// cgroupController returns the kernel's number of a cgroup v1 controller, -1 if
// there is none to be looked at. The error matches ErrUnsupported.
func cgroupController(kernel *btf.Spec, name string) (int32, error) {
	if name == "" {
		return -1, nil
	}
	symbol := name
	if name == "blkio" { // its name in the v1 hierarchy only
		symbol = "io"
	}
	var numbers *btf.Enum
	if err := kernel.TypeByName("cgroup_subsys_id", &numbers); err != nil {
		return 0, fmt.Errorf("reading the kernel's cgroup controllers: %w", err)
	}
	for _, number := range numbers.Values {
		if number.Name == symbol+"_cgrp_id" {
			return int32(number.Value), nil
		}
	}
	return 0, fmt.Errorf("cgroup controller %s: %w", name, ErrUnsupported)
}

// WatchCgroup reports writes outside of the layer by processes of the cgroup, and
// of those below it, as Covered of that layer. cgroup is the inode number of its
// directory in the hierarchy that Config.CgroupController says. It needs
// Config.IncludeCovered.
func (t *Tracer) WatchCgroup(cgroup uint64, id event.LayerID) error {
	var err error
	t.unpreempted(func() { err = t.coll.Maps["cgroups"].Put(cgroup, uint32(id)) })
	if err != nil {
		return fmt.Errorf("watching cgroup %d: %w", cgroup, err)
	}
	return t.cgroupChanged()
}

// UnwatchCgroup ends WatchCgroup; a cgroup that is not watched is no error.
func (t *Tracer) UnwatchCgroup(cgroup uint64) error {
	var err error
	t.unpreempted(func() { err = t.coll.Maps["cgroups"].Delete(cgroup) })
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("unwatching cgroup %d: %w", cgroup, err)
	}
	return t.cgroupChanged()
}

// cgroupChanged makes the programs look at the watched cgroups anew.
func (t *Tracer) cgroupChanged() error {
	t.cgroups.Lock()
	defer t.cgroups.Unlock()
	t.cgroupsChanged++
	if err := t.coll.Variables["cgroups_changed"].Set(t.cgroupsChanged); err != nil {
		return fmt.Errorf("telling of a watched cgroup: %w", err)
	}
	return nil
}
