package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/layertrace/layertrace/cmd/layertrace/internal/sessiontest"
	"github.com/layertrace/layertrace/internal/output/outputtest"
	"github.com/layertrace/layertrace/resolver"
)

func TestExplainCannotAnswer(t *testing.T) {
	api := sessiontest.NewContainer(t, "api", map[string]int{"file": 1})
	for _, test := range []struct {
		name   string
		args   []string
		set    func(*world)
		code   int
		stderr []string
	}{
		{
			name: "not root", args: []string{"api", "/a b"}, set: func(w *world) { w.env.euid = 1000 }, code: exitKernel,
			stderr: []string{"layertrace: explain: only root may look into layers and mounts", "hint: sudo layertrace explain api '/a b'"},
		},
		{
			name: "no such container", args: []string{"apj", "/x"}, code: exitRuntime,
			stderr: []string{"layertrace: container apj: no such container", "hint: did you mean api?"},
		},
		{
			name: "nothing like it", args: []string{"zzz", "/x"}, code: exitRuntime,
			stderr: []string{"layertrace: container zzz: no such container", "hint: docker ps -a lists what there is"},
		},
		{
			name: "below a file", args: []string{"api", "/file/x"}, code: exitFailed,
			stderr: []string{"layertrace: path /file/x: /file is no directory"},
		},
		{
			name: "a name too long", args: []string{"api", "/" + strings.Repeat("x", 300)}, code: exitFailed,
			stderr: []string{"layertrace: path /" + strings.Repeat("x", 59) + "…: a name in it is too long to exist"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t, api)
			if test.set != nil {
				test.set(w)
			}
			w.expect(w.run(append([]string{"explain"}, test.args...)...), test.code, test.stderr...)
			if w.stdout.String() != "" {
				t.Errorf("stdout: %s", w.stdout)
			}
		})
	}
}

func TestExplainOutput(t *testing.T) {
	api := sessiontest.NewContainer(t, "api", map[string]int{"var/log/app.log": 3000})
	api.State, api.InitPID = resolver.StateExited, 0

	w := newWorld(t, api)
	w.expect(w.run("explain", "api", "/var/log/app.log"), exitDone)
	for _, want := range []string{
		"/var/log/app.log in api (exited)\n\n  File in the writable layer, added there.\n",
		"  on the host     " + api.UpperDir + "/var/log/app.log\n",
		"  size            2.9 KiB (3000 B), ",
		"  docker rm -v    lost      the layer is deleted with the container\n",
		"  docker commit   included  ",
	} {
		if !strings.Contains(w.stdout.String(), want) {
			t.Errorf("no %q in:\n%s", want, w.stdout)
		}
	}

	w = newWorld(t, api)
	w.expect(w.run("explain", "api", "/var/log/new", "--output", "json"), exitDone)
	if err := outputtest.ValidateExplanation([]byte(w.stdout.String())); err != nil {
		t.Error(err)
	}
	var got struct {
		Exists *bool
		Parent string
		Fate   map[string]struct{ Outcome string }
	}
	if err := json.Unmarshal([]byte(w.stdout.String()), &got); err != nil {
		t.Fatal(err)
	}
	if got.Exists == nil || *got.Exists || got.Parent != "/var/log" || got.Fate["rm"].Outcome != "lost" || len(got.Fate) != 6 {
		t.Errorf("%+v", got)
	}
}

func TestExplainCompletes(t *testing.T) {
	w := newWorld(t, sessiontest.NewContainer(t, "api", nil), sessiontest.NewContainer(t, "db", nil))
	w.run("__complete", "explain", "")
	if !strings.HasPrefix(w.stdout.String(), "api\trunning\ndb\trunning\n") {
		t.Errorf("containers: %s", w.stdout)
	}
	w = newWorld(t, sessiontest.NewContainer(t, "api", nil))
	w.run("__complete", "explain", "api", "")
	if strings.Contains(w.stdout.String(), "api") {
		t.Errorf("paths: %s", w.stdout)
	}
	w = newWorld(t)
	w.run("__complete", "explain", "--output", "")
	if !strings.HasPrefix(w.stdout.String(), "text\njson\n") {
		t.Errorf("forms: %s", w.stdout)
	}
}
