package explain

import (
	"fmt"
	"strings"

	"github.com/layertrace/layertrace/internal/output"
	"github.com/layertrace/layertrace/internal/record"
)

// Text is the answer in words, for people. color allows ANSI colours.
func (a *Answer) Text(color bool) string {
	t := text{color: color}
	path := raw(a.Path, a.PathB64)
	t.line("%s in %s (%s)", path, raw(a.Container.Name, a.Container.NameB64), a.State)
	t.line("")
	t.line("  %s", a.sentence())
	t.line("")
	rows := t.Len()
	for _, l := range a.Links {
		t.row("symlink", "%s → %s", raw(l.Path, l.PathB64), raw(l.Target, l.TargetB64))
	}
	if resolved := raw(a.Resolved, a.ResolvedB64); resolved != path && a.Storage.Class != record.ClassLog {
		t.row("leads to", "%s", resolved)
	}
	if a.HostPath != "" {
		t.row("on the host", "%s", raw(a.HostPath, a.HostPathB64))
	}
	if a.Size != nil && a.Allocated != nil && a.Tree == nil {
		t.row("size", "%s, %s on the disk", bytes(*a.Size), bytes(*a.Allocated))
	}
	if a.Tree != nil {
		t.row("all in it", "%s, %s on the disk, %s", bytes(a.Tree.Size), bytes(a.Tree.Allocated), a.Tree.count())
	}
	if t.Len() > rows {
		t.line("")
	}
	for _, f := range []struct {
		what string
		Outcome
	}{
		{"docker stop", a.Fate.Stop}, {"docker restart", a.Fate.Restart}, {"docker rm", a.Fate.Remove},
		{"docker rm -v", a.Fate.RemoveVolumes}, {"docker commit", a.Fate.Commit}, {"made anew", a.Fate.Recreate},
	} {
		t.row(f.what, "%s %s", t.outcome(f.Outcome.Outcome), f.Why)
	}
	if len(a.Notes) > 0 {
		t.line("")
	}
	for _, n := range a.Notes {
		t.line("  Note: %s.", n)
	}
	return t.String()
}

// sentence says where the bytes are.
func (a *Answer) sentence() string {
	at := raw(a.Storage.Destination, a.Storage.DestinationB64)
	from := ""
	if a.Storage.Source != "" {
		from = ", from " + raw(a.Storage.Source, a.Storage.SourceB64) + " on the host"
	}
	is := a.Kind
	switch {
	case a.Exists == nil:
		is = "It may exist"
	case !*a.Exists:
		is = "It does not exist; its place is"
	default:
		is = strings.ToUpper(is[:1]) + is[1:]
	}
	switch a.Storage.Class {
	case record.ClassLayer:
		switch a.Origin {
		case record.OriginAdded:
			return is + " in the writable layer, added there."
		case record.OriginCopiedUp:
			return is + " in the writable layer, copied up from the image."
		case record.OriginDirectory:
			return is + " in the writable layer."
		case record.OriginWhiteout:
			return "Deleted: the writable layer hides what the image has of this name."
		case originImage:
			return is + " of the image only, not in the writable layer."
		}
		return is + " in the writable layer."
	case record.ClassVolume:
		kind := "volume " + output.Printable(a.Storage.Name)
		if a.Mount != nil && a.Mount.Anonymous {
			kind = "anonymous " + kind
		}
		return fmt.Sprintf("%s on the %s, mounted at %s%s: not in the layer.", is, kind, at, from)
	case record.ClassBind:
		return fmt.Sprintf("%s on a bind mount at %s%s: not in the layer.", is, at, from)
	case record.ClassTmpfs:
		return fmt.Sprintf("%s in memory, on the tmpfs at %s: not in the layer.", is, at)
	case record.ClassDockerFile:
		return fmt.Sprintf("%s of Docker's own, mounted at %s%s: not in the layer.", is, at, from)
	case record.ClassImageMount:
		return fmt.Sprintf("%s of the image %s, mounted at %s: not in the layer.", is, output.Printable(a.Storage.Name), at)
	case record.ClassNestedOverlay:
		if a.Storage.Source == "" {
			from = ", made inside the container"
		}
		return fmt.Sprintf("%s on an overlay at %s%s: not in the layer.", is, at, from)
	case record.ClassLog:
		return "The container's output, which goes to its log: not in the layer."
	}
	return fmt.Sprintf("%s of the kernel's own, mounted at %s: stored nowhere.", is, at)
}

func (t *Tree) count() string {
	text := fmt.Sprintf("%d files, %d directories", t.Files, t.Directories)
	if t.Whiteouts > 0 {
		text += fmt.Sprintf(", %d deleted of the image", t.Whiteouts)
	}
	return text
}

// bytes is a size as a person reads it, and exactly.
func bytes(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%s (%d B)", output.FormatSize(n), n)
}

func raw(text, b64 string) string { return output.Printable(record.Raw(text, b64)) }

type text struct {
	strings.Builder
	color bool
}

func (t *text) line(format string, args ...any) {
	t.WriteString(strings.TrimRight(fmt.Sprintf(format, args...), " ") + "\n")
}

func (t *text) row(what, format string, args ...any) {
	t.line("  %-15s %s", what, fmt.Sprintf(format, args...))
}

func (t *text) outcome(word string) string {
	padded := fmt.Sprintf("%-9s", strings.ReplaceAll(word, "_", " "))
	colors := map[string]string{Kept: "32", Included: "32", Lost: "31", Unknown: "33"}
	if c, ok := colors[word]; ok && t.color {
		return "\x1b[" + c + "m" + padded + "\x1b[0m"
	}
	return padded
}
