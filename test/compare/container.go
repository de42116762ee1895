//go:build linux

package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	containerName = "layertrace-compare"
	imageName     = "layertrace-compare:1"
	volumeName    = "layertrace-compare-data"
)

// container is the one that changes. Its first process goes through the ways, one step at a signal.
type container struct {
	cmd    *exec.Cmd
	lines  *bufio.Scanner
	stderr bytes.Buffer

	id, upper string
	pid       int // of its first process
}

// docker runs the docker program.
func docker(ctx context.Context, stdin io.Reader, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "docker", args...)
	cmd.Stdin = stdin
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		err = fmt.Errorf("%w: %s", err, bytes.TrimSpace(exit.Stderr))
	}
	if err != nil {
		return "", fmt.Errorf("docker %s: %w", args[0], err)
	}
	return strings.TrimSpace(string(out)), nil
}

// importImage makes the image, of the workload program under the name of each way's process and a
// file to copy up.
func importImage(ctx context.Context, workload string) error {
	program, err := os.ReadFile(workload)
	if err != nil {
		return err
	}
	var image bytes.Buffer
	tw := tar.NewWriter(&image)
	when := time.Unix(1_700_000_000, 0)
	var errs []error
	add := func(h tar.Header, content []byte) {
		h.Size, h.ModTime = int64(len(content)), when
		err := tw.WriteHeader(&h)
		if err == nil {
			_, err = tw.Write(content)
		}
		errs = append(errs, err)
	}
	for _, dir := range []string{"bin", "etc", strings.TrimPrefix(volumeDir, "/"), strings.TrimPrefix(filepath.Dir(imageFile), "/")} {
		add(tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755}, nil)
	}
	add(tar.Header{Typeflag: tar.TypeReg, Name: "bin/workload", Mode: 0o755}, program)
	for _, name := range programs(ways) {
		add(tar.Header{Typeflag: tar.TypeLink, Name: "bin/" + name, Linkname: "bin/workload", Mode: 0o755}, nil)
	}
	add(tar.Header{Typeflag: tar.TypeReg, Name: strings.TrimPrefix(imageFile, "/"), Mode: 0o644}, bytes.Repeat([]byte("model\n"), imageBytes/6+1)[:imageBytes])
	if err := errors.Join(append(errs, tw.Close())...); err != nil {
		return fmt.Errorf("writing the image: %w", err)
	}
	_, err = docker(ctx, &image, "import", "-", imageName)
	return err
}

// startContainer returns once the container waits for the first signal.
func startContainer(ctx context.Context) (*container, error) {
	// Docker's default profile forbids io_uring since 25.0.
	args := []string{"run", "--name", containerName, "--network", "none", "--security-opt", "seccomp=unconfined",
		"--volume", volumeName + ":" + volumeDir, imageName}
	c := &container{cmd: exec.CommandContext(ctx, "docker", append(args, service(ways)...)...)}
	c.cmd.Stderr = &c.stderr
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.lines = bufio.NewScanner(out)
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	if _, err := c.waiting(); err != nil {
		return nil, fmt.Errorf("starting the container: %w", err)
	}
	text, err := docker(ctx, nil, "inspect", "--format", "{{.GraphDriver.Name}} {{.State.Pid}} {{.ID}} {{.GraphDriver.Data.UpperDir}}", containerName)
	if err != nil {
		return nil, err
	}
	var driver string
	if _, err := fmt.Sscan(text, &driver, &c.pid, &c.id, &c.upper); err != nil {
		return nil, fmt.Errorf("docker inspect said %q: %w", text, err)
	}
	if driver != "overlay2" {
		return nil, fmt.Errorf("Docker's storage driver is %s; this needs overlay2", driver)
	}
	return c, nil
}

// waiting reads what the processes say they did until one of them waits, and returns how many bytes
// their write-like calls wrote.
func (c *container) waiting() (written int64, err error) {
	for c.lines.Scan() {
		var line struct {
			Result *struct {
				Op      string
				Written int64
			}
		}
		if err := json.Unmarshal(c.lines.Bytes(), &line); err != nil || line.Result == nil {
			return 0, fmt.Errorf("the container said %q", c.lines.Text())
		}
		if line.Result.Op == "waiting" {
			return written, nil
		}
		written += line.Result.Written
	}
	err = errors.Join(c.lines.Err(), c.cmd.Wait())
	return 0, fmt.Errorf("the container ended: %w: %s", err, bytes.TrimSpace(c.stderr.Bytes()))
}

// step lets the first process go on.
func (c *container) step() error { return unix.Kill(c.pid, unix.SIGUSR1) }

// release lets the container's process of that name end.
func (c *container) release(process string) error {
	files, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		return err
	}
	for _, file := range files {
		// The others come and go.
		if comm, err := os.ReadFile(file); err != nil || string(comm) != process+"\n" {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			return err
		}
		return unix.Kill(pid, unix.SIGUSR1)
	}
	return fmt.Errorf("no process is called %s", process)
}

// end waits for the container, which has been through all the ways.
func (c *container) end() error {
	if err := c.step(); err != nil {
		return err
	}
	for c.lines.Scan() { // that the signal has come
	}
	return c.cmd.Wait()
}

// dockerSize is what docker ps -s rounds.
func dockerSize(ctx context.Context) (int64, error) {
	text, err := docker(ctx, nil, "inspect", "--size", "--format", "{{.SizeRw}}", containerName)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(text, 10, 64)
}

// removeAll removes what this program made in Docker, as far as it is there.
func removeAll(ctx context.Context) error {
	var errs []error
	for _, args := range [][]string{
		{"rm", "--force", "--volumes", containerName},
		{"volume", "rm", "--force", volumeName},
		{"image", "rm", "--force", imageName},
	} {
		_, err := docker(ctx, nil, args...)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
