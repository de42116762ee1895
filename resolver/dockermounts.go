package resolver

import (
	"cmp"
	"strings"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
)

// declaredMount joins what the daemon says of a mount with what the user asked
// for, which alone tells a named volume from an anonymous one: Docker gives
// anonymous volumes names of 64 hexadecimal digits, but so may a user.
func declaredMount(m container.MountPoint, asked *container.HostConfig) DeclaredMount {
	d := DeclaredMount{
		Type: string(m.Type), Name: m.Name, Source: m.Source,
		Destination: m.Destination, ReadOnly: !m.RW,
	}
	named, inherited := false, false
	if asked != nil {
		for _, bind := range asked.Binds {
			// source:destination[:options]; without a source it is anonymous.
			source, rest, ok := strings.Cut(bind, ":")
			destination, _, _ := strings.Cut(rest, ":")
			if ok && source != "" && sameDestination(destination, m.Destination) {
				named = true
			}
		}
		for _, s := range asked.Mounts {
			if !sameDestination(s.Target, m.Destination) {
				continue
			}
			named = named || s.Source != ""
			switch {
			case s.VolumeOptions != nil && s.VolumeOptions.Subpath != "":
				d.Subpath = s.VolumeOptions.Subpath
			case s.ImageOptions != nil && s.ImageOptions.Subpath != "":
				d.Subpath = s.ImageOptions.Subpath
			}
		}
		inherited = len(asked.VolumesFrom) > 0
	}
	if m.Type != mount.TypeVolume || named {
		return d
	}
	// What another container handed on (--volumes-from) was asked for there; only
	// the name is left to tell.
	d.Anonymous = !inherited || isMadeUp(m.Name)
	return d
}

// sameDestination compares paths in a container as the daemon does.
func sameDestination(a, b string) bool {
	clean := func(s string) string { return cmp.Or(strings.TrimRight(s, "/"), "/") }
	return clean(a) == clean(b)
}

// isMadeUp reports whether a volume's name is one that Docker makes up: 64
// hexadecimal digits.
func isMadeUp(name string) bool {
	const digits = 64
	return len(name) == digits && isHex(name)
}
