package main

import (
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// Set by the linker (-X main.version=… -X main.commit=…) in released builds.
var (
	version string
	commit  string
)

// build says what this program was built from.
type build struct {
	Version string `json:"version"`
	Commit  string `json:"commit"`
	Go      string `json:"go"`
	OS      string `json:"os"`
	Arch    string `json:"arch"`
	Kernel  string `json:"kernel,omitempty"`
}

// readBuild takes what the linker was told, else what the go command noted.
func readBuild() build {
	b := build{Version: version, Commit: commit, Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH}
	if info, ok := debug.ReadBuildInfo(); ok {
		b.fill(info)
	}
	if b.Version == "" {
		b.Version = "devel"
	}
	if b.Commit == "" {
		b.Commit = "unknown"
	}
	return b
}

func (b *build) fill(info *debug.BuildInfo) {
	if v := info.Main.Version; b.Version == "" && v != "" && v != "(devel)" {
		b.Version = v
	}
	if b.Commit != "" {
		return
	}
	dirty := ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			b.Commit = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "-dirty"
		}
	}
	if b.Commit != "" {
		b.Commit += dirty
	}
}

func newVersion(env *env) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "version",
		Short: "Version, commit, Go and kernel",
		Example: `  layertrace version
  layertrace version --json`,
		Args:              noArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: runs(func(*cobra.Command, []string) error {
			b := readBuild()
			b.Kernel = env.kernelRelease()
			if asJSON {
				return writeJSON(env.stdout, b)
			}
			_, err := fmt.Fprintf(env.stdout, "layertrace %s\ncommit %s\n%s %s/%s\nkernel %s\n",
				b.Version, b.Commit, b.Go, b.OS, b.Arch, b.Kernel)
			return err
		}),
	}
	c.Flags().BoolVar(&asJSON, "json", false, "as a JSON object")
	return c
}

// writeJSON writes v, indented for people, since only one of it is written.
func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
