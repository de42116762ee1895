package explain

import (
	"strings"

	"github.com/layertrace/layertrace/internal/record"
	"github.com/layertrace/layertrace/resolver"
)

// fate says what becomes of something. m is the mount that it lies on; of the
// layer, origin is where it comes from.
func fate(c *resolver.Container, m *resolver.Mount, class, origin string, inImage bool) Fate {
	var f Fate
	switch class {
	case record.ClassLayer:
		f = layerFate(origin, inImage)
	case record.ClassVolume:
		if kind, ok := ofPod(m); ok {
			f = podVolumeFate(kind)
			break
		}
		f = volumeFate(m.Anonymous)
	case record.ClassBind:
		if dockersOwn(c, m) {
			f = dockerFileFate()
			break
		}
		f = everywhere(Kept, "it is the host's own")
		f.Commit = Outcome{LeftOut, "an image gets the layer only"}
	case record.ClassTmpfs:
		f = tmpfsFate(c, m)
	case record.ClassDockerFile:
		f = dockerFileFate()
	case record.ClassImageMount:
		f = everywhere(Kept, "it belongs to an image that is mounted here")
		f.Commit = Outcome{LeftOut, "an image gets the layer only"}
	case record.ClassLog:
		f = logFate()
	case record.ClassNestedOverlay:
		why := "a process in the container mounted an overlay here: the mount ends with the container's processes, its content is where that overlay has its upper directory"
		if m.Source != "" {
			why = "a bind mount shows an overlay of the host, such as the root of another container: it lasts as long as that"
		}
		f = everywhere(Unknown, why)
		f.Commit = Outcome{LeftOut, "an image gets the layer only"}
	default:
		f = everywhere(Lost, "the kernel shows it; it is stored nowhere")
		f.Restart, f.Recreate = Outcome{Renewed, "the kernel shows it"}, Outcome{Renewed, "the kernel shows it"}
		f.Commit = Outcome{LeftOut, "it is stored nowhere"}
	}
	if c.AutoRemove {
		// docker restart does not remove it.
		f.Stop = f.RemoveVolumes
		f.Stop.Why = "the container is removed when it stops (--rm): " + f.Stop.Why
	}
	return f
}

// everywhere is the same outcome for everything.
func everywhere(outcome, why string) Fate {
	o := Outcome{outcome, why}
	return Fate{Stop: o, Restart: o, Remove: o, RemoveVolumes: o, Commit: o, Recreate: o}
}

func layerFate(origin string, inImage bool) Fate {
	const stays = "the layer stays until the container is removed"
	f := everywhere(Kept, stays)
	lost := Outcome{Lost, "the layer is deleted with the container"}
	fresh := Outcome{Lost, "a new container gets an empty layer"}
	switch {
	case origin == originImage:
		const why = "it is the image's, the layer holds nothing of it"
		f = everywhere(Kept, why)
		f.Commit = Outcome{Included, "it is in the image already"}
		return f
	case origin == record.OriginWhiteout:
		lost = Outcome{Lost, "the mark that hides it is deleted with the container"}
		fresh = Outcome{Restored, "a new container sees what the image has of this name"}
		f.Commit = Outcome{Included, "the new image hides it as well"}
		f.Remove, f.RemoveVolumes, f.Recreate = lost, lost, fresh
		return f
	case inImage:
		lost = Outcome{Lost, "the layer is deleted with the container; the image's own version stays in the image"}
		fresh = Outcome{Restored, "a new container sees what the image has of this name"}
	}
	f.Remove, f.RemoveVolumes, f.Recreate = lost, lost, fresh
	f.Commit = Outcome{Included, "the layer becomes part of the new image"}
	return f
}

func volumeFate(anonymous bool) Fate {
	f := everywhere(Kept, "a volume outlives the container's processes")
	f.Commit = Outcome{LeftOut, "volumes are no part of an image"}
	if anonymous {
		f.Remove = Outcome{Kept, "the volume stays, but no container uses it any more; docker volume ls -f dangling=true lists it"}
		f.RemoveVolumes = Outcome{Lost, "an anonymous volume is deleted with the container, unless another container uses it"}
		f.Recreate = Outcome{Lost, "a new container gets a new anonymous volume; this one stays on the disk unless -v was given (docker compose up hands it on)"}
		return f
	}
	f.Remove = Outcome{Kept, "a named volume stays until docker volume rm"}
	f.RemoveVolumes = Outcome{Kept, "-v deletes anonymous volumes only; this one has a name"}
	f.Recreate = Outcome{Kept, "a new container that names the volume sees it"}
	return f
}

// ofPod tells of a volume of Kubernetes and its kind: empty-dir, secret, csi …
func ofPod(m *resolver.Mount) (kind string, ok bool) {
	_, rest, ok := strings.Cut(m.Source, "/volumes/kubernetes.io~")
	kind, _, _ = strings.Cut(rest, "/")
	return kind, ok
}

func podVolumeFate(kind string) Fate {
	f := everywhere(Kept, "it belongs to the pod, not to one of its containers")
	f.Commit = Outcome{LeftOut, "volumes are no part of an image"}
	switch kind {
	case "empty-dir", "secret", "configmap", "projected", "downward-api":
		f.Remove = Outcome{Kept, "it is deleted with the pod, not with one of its containers"}
		f.Recreate = Outcome{Kept, "a new container of the same pod sees it; a new pod gets one of its own"}
	default:
		f.Remove = Outcome{Kept, "whether it outlives the pod is up to its claim; it outlives the container"}
		f.Recreate = Outcome{Kept, "a new container of the same pod sees it; whether a new pod does is up to its claim"}
	}
	f.RemoveVolumes = f.Remove
	return f
}

func tmpfsFate(c *resolver.Container, m *resolver.Mount) Fate {
	own := dockersOwn(c, m)
	if m.Source != "" && !own {
		f := everywhere(Kept, "it is memory of the host, which has it mounted too, and lasts until the host unmounts it")
		f.Commit = Outcome{LeftOut, "an image gets the layer only"}
		return f
	}
	f := everywhere(Lost, "it is in memory and ends with the container's processes")
	f.Commit = Outcome{LeftOut, "it is in memory"}
	f.Recreate = Outcome{Lost, "a new container gets an empty one"}
	if own && !m.Declared {
		f.Restart = Outcome{Renewed, "Docker makes it anew at each start"}
		f.Recreate = Outcome{Renewed, "Docker makes it for each container"}
	}
	return f
}

// dockersOwn tells of a mount of what Docker keeps for the container: a secret, a
// config, shared memory that others may join.
func dockersOwn(c *resolver.Container, m *resolver.Mount) bool {
	return strings.Contains(m.Source, "/containers/"+c.ID+"/")
}

func dockerFileFate() Fate {
	f := everywhere(Kept, "Docker keeps it beside the container")
	f.Restart = Outcome{Renewed, "Docker writes it anew at each start"}
	f.Remove = Outcome{Lost, "Docker deletes it with the container"}
	f.RemoveVolumes = f.Remove
	f.Commit = Outcome{LeftOut, "it lies beside the layer"}
	f.Recreate = Outcome{Renewed, "Docker makes one for each container"}
	return f
}

func logFate() Fate {
	f := everywhere(Kept, "Docker keeps the log until the container is removed; docker logs shows it")
	f.Remove = Outcome{Lost, "Docker deletes the log with the container"}
	f.RemoveVolumes = f.Remove
	f.Commit = Outcome{LeftOut, "the log lies beside the layer"}
	f.Recreate = Outcome{Lost, "a new container begins a new log"}
	return f
}
