//go:build linux

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// dockerAPI speaks to the daemon's socket. The docker program is used where a
// test is about what people type; starting it is slow under emulation.
type dockerAPI struct{ client *http.Client }

func newDockerAPI() *dockerAPI {
	socket := "/var/run/docker.sock"
	if h := os.Getenv("DOCKER_HOST"); strings.HasPrefix(h, "unix://") {
		socket = strings.TrimPrefix(h, "unix://")
	}
	return dockerAt(socket)
}

// dockerAt speaks to the daemon that listens on a unix socket.
func dockerAt(socket string) *dockerAPI {
	return &dockerAPI{client: &http.Client{
		Timeout: 2 * time.Minute,
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		}},
	}}
}

// do sends body (an io.Reader as it is, anything else as JSON) and reads the
// answer into out.
func (d *dockerAPI) do(method, path string, body, out any) error {
	var r io.Reader
	contentType := "application/json"
	switch b := body.(type) {
	case nil:
	case io.Reader:
		r, contentType = b, "application/x-tar"
	default:
		raw, err := json.Marshal(b)
		if err != nil {
			return err
		}
		r = bytes.NewReader(raw)
	}
	req, err := http.NewRequest(method, "http://docker"+path, r)
	if err != nil {
		return err
	}
	if r != nil {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := d.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode >= 400 {
		return fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, bytes.TrimSpace(answer))
	}
	// A progress stream reports its error in the body.
	if bytes.Contains(answer, []byte(`"errorDetail"`)) {
		return fmt.Errorf("%s %s: %s", method, path, bytes.TrimSpace(answer))
	}
	if out == nil || len(answer) == 0 {
		return nil
	}
	return json.Unmarshal(answer, out)
}

// must is do for tests.
func (d *dockerAPI) must(t *testing.T, method, path string, body, out any) {
	t.Helper()
	if err := d.do(method, path, body, out); err != nil {
		t.Fatalf("docker: %v", err)
	}
}

type inspection struct {
	ID    string `json:"Id"`
	Name  string
	State struct {
		Running bool
		Pid     int
	}
	GraphDriver struct {
		Name string
		Data map[string]string
	}
	SizeRw *int64
}

func (d *dockerAPI) inspect(t *testing.T, id string, size bool) inspection {
	t.Helper()
	var got inspection
	path := "/containers/" + url.PathEscape(id) + "/json"
	if size {
		path += "?size=1"
	}
	d.must(t, "GET", path, nil, &got)
	return got
}

// dockerCLI runs the docker program as a person would.
func dockerCLI(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "docker", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("docker %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}
