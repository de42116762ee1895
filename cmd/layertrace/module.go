package main

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// modprobeTimeout bounds the loading of a module, which takes milliseconds.
const modprobeTimeout = 10 * time.Second

// modprobe loads a kernel module.
func modprobe(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, modprobeTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, "modprobe", "--", name).CombinedOutput()
	if err == nil {
		return nil
	}
	if said := strings.TrimSpace(string(out)); said != "" {
		return fmt.Errorf("loading module %s: %s", name, said)
	}
	return fmt.Errorf("loading module %s: %w", name, err)
}
