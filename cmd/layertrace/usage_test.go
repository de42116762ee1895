package main

import (
	"strings"
	"testing"
)

const sizeHint = "hint: a number of bytes, such as 4096, 64KiB, 10MiB, 1.5GiB (binary) or 10MB (decimal)"

func TestWrongUsage(t *testing.T) {
	tests := []struct {
		args   string
		stderr []string
	}{
		{"", []string{"layertrace: no command given: one of completion, doctor, explain, version, watch", "hint: layertrace --help"}},
		{"wacth", []string{"layertrace: command wacth: no such command", "hint: did you mean layertrace watch?"}},
		{"frobnicate", []string{"layertrace: command frobnicate: no such command", "hint: layertrace --help"}},
		{"help frobnicate", []string{"layertrace: command frobnicate: no such command", "hint: layertrace --help"}},
		{"version now", []string{`layertrace: version: it takes no arguments, but got "now"`, "hint: layertrace version --help"}},
		{"completion tcsh", []string{"layertrace: completion: it needs one of bash, fish, powershell, zsh", "hint: layertrace completion --help"}},
		{"watch", []string{"layertrace: watch: no container given", "hint: layertrace watch --all"}},
		{"watch --all api", []string{"layertrace: watch: --all and the name of a container contradict each other", "hint: layertrace watch api"}},
		{"watch --intervall 1s api", []string{"layertrace: flag --intervall: no such flag", "hint: did you mean --interval?"}},
		{"watch --min api", []string{"layertrace: flag --min: no such flag", "hint: did you mean --min-growth?"}},
		{"watch --frobnicate api", []string{"layertrace: flag --frobnicate: no such flag", "hint: layertrace --help"}},
		{"watch -x api", []string{"layertrace: flag -x: no such flag", "hint: layertrace --help"}},
		{"watch api --interval", []string{"layertrace: flag --interval: it needs a value", "hint: --interval DURATION"}},
		{"watch api -i 1", []string{`layertrace: flag --interval: "1": no length of time`, "hint: a number and a unit, such as 500ms, 1s, 5m or 1h"}},
		{"watch api -i 0", []string{`layertrace: flag --interval: "0": too short`, "hint: at least 10ms"}},
		{"watch api -i -1s", []string{`layertrace: flag --interval: "-1s": too short`, "hint: at least 10ms"}},
		{"watch api -d -1s", []string{`layertrace: flag --duration: "-1s": too short`, "hint: at least 1ms"}},
		{"watch api -o csv", []string{`layertrace: flag --output: "csv": not one of the allowed values`, "hint: allowed: auto, live, table, ndjson"}},
		{"watch api -o live", []string{"layertrace: flag --output: live needs a terminal to write to", "hint: layertrace watch --output table"}},
		{"watch api -o ndjson --group dir", []string{"layertrace: flags --group and --depth: ndjson records are never grouped", "hint: layertrace watch --output table"}},
		{"watch api --group user", []string{`layertrace: flag --group: "user": not one of the allowed values`, "hint: allowed: process, path, dir"}},
		{"watch api --group process --depth 2", []string{"layertrace: flag --depth: processes have no depth", "hint: --group dir"}},
		{"watch api --depth -1", []string{`layertrace: flag --depth: "-1": no number of that kind`, "hint: 0, 1, 2 …"}},
		{"watch api --max-files 1k", []string{`layertrace: flag --max-files: "1k": no number of that kind`, "hint: 1024 to 134217728"}},
		{"watch api --max-files 1023", []string{`layertrace: flag --max-files: "1023": no number of that kind`, "hint: 1024 to 134217728"}},
		{"watch api --min-growth lots", []string{`layertrace: flag --min-growth: "lots": no size`, sizeHint}},
		{"watch api --limit-growth -1", []string{`layertrace: flag --limit-growth: "-1": no size`, sizeHint}},
		{"watch api --limit-rate 10MiB/h", []string{`layertrace: flag --limit-rate: "10MiB/h": no size per second`, "hint: a number of bytes per second, such as 64KiB/s, 5MiB/s or 10MB/s"}},
		{"watch api --path [a", []string{`layertrace: flag --path: "[a": no pattern`, `hint: patterns are like '/var/log/**', '*.log' or '/srv/{a,b}/*'; quote them from the shell`}},
		{"watch api --exclude=", []string{`layertrace: flag --exclude: "": no pattern`, `hint: patterns are like '/var/log/**', '*.log' or '/srv/{a,b}/*'; quote them from the shell`}},
		{"watch api --pid 4", []string{"layertrace: watch: --pid and --cgroup stand instead of containers", "hint: layertrace watch --pid PID"}},
		{"watch --pid -4", []string{`layertrace: flag --pid: "-4": no number of a process`, "hint: pgrep -f COMMAND"}},
		{"watch --pid 4 --runtime docker", []string{"layertrace: flag --runtime: no runtime is asked for --pid and --cgroup", "hint: --runtime none"}},
		{"watch --cgroup /a/../b", []string{`layertrace: flag --cgroup: "/a/../b": no path of a control group`, "hint: such as /system.slice/my.service, or below /sys/fs/cgroup; cat /proc/PID/cgroup tells it"}},
		{"watch --runtime none", []string{"layertrace: watch: neither a process nor a control group given", "hint: layertrace watch --runtime none --all"}},
		{"watch api --runtime rkt", []string{`layertrace: flag --runtime: "rkt": not one of the allowed values`, "hint: allowed: auto, docker, podman, containerd, none"}},
		{"watch api --docker-host here", []string{`layertrace: flag --docker-host: "here": no address of a Docker daemon`, "hint: such as unix:///var/run/docker.sock or tcp://127.0.0.1:2376"}},
		{"watch api --log-format xml", []string{`layertrace: flag --log-format: "xml": not one of the allowed values`, "hint: allowed: console, json"}},
		{"--log-level loud version", []string{`layertrace: flag --log-level: "loud": not one of the allowed values`, "hint: allowed: trace, debug, info, warn, error"}},
		{"explain", []string{"layertrace: explain: it needs a container and a path", "hint: layertrace explain CONTAINER PATH"}},
		{"explain api", []string{"layertrace: explain: it needs a container and a path", "hint: layertrace explain api PATH"}},
		{"explain api /a /b", []string{`layertrace: explain: it takes one container and one path, but got "/b" as well`, "hint: layertrace explain api /a"}},
		{"explain api /a -o ndjson", []string{`layertrace: flag --output: "ndjson": not one of the allowed values`, "hint: allowed: text, json"}},
		{"explain api /a --docker-host here", []string{`layertrace: flag --docker-host: "here": no address of a Docker daemon`, "hint: such as unix:///var/run/docker.sock or tcp://127.0.0.1:2376"}},
		{"watch api --all=maybe", []string{`layertrace: flag --all: "maybe": no bool`, "hint: --all takes a bool"}},
	}
	for _, test := range tests {
		t.Run(test.args, func(t *testing.T) {
			w := newWorld(t)
			w.expect(w.run(strings.Fields(test.args)...), exitUsage, test.stderr...)
			if w.stdout.String() != "" {
				t.Errorf("stdout: %s", w.stdout)
			}
			if len(w.hosts) > 0 {
				t.Error("the runtime was asked although the usage was wrong")
			}
		})
	}
}

func TestHelpEndsWithExamples(t *testing.T) {
	for _, args := range [][]string{{"--help"}, {"watch", "--help"}, {"explain", "--help"}, {"doctor", "-h"}, {"help", "version"}} {
		w := newWorld(t)
		w.expect(w.run(args...), exitDone)
		_, examples, ok := strings.Cut(w.stdout.String(), "\nExamples:\n")
		if !ok || !strings.Contains(examples, "layertrace ") || strings.Contains(examples, "Flags:") {
			t.Errorf("%v does not end with examples:\n%s", args, w.stdout)
		}
	}
}

func TestCompletionScripts(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		w := newWorld(t)
		w.expect(w.run("completion", shell), exitDone)
		if !strings.Contains(w.stdout.String(), "layertrace") {
			t.Errorf("%s: no script", shell)
		}
	}
}
