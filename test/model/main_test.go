package model

import (
	"fmt"
	"os"
	"testing"
)

// The histories are played in a VM with a stock kernel: `make test-vm`.
func TestMain(m *testing.M) {
	if os.Getenv(roleVariable) != "" {
		if err := work(); err != nil {
			fmt.Fprintf(os.Stderr, "model: %s: %v\n", os.Getenv(roleVariable), err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if os.Getenv("LAYERTRACE_VM") == "" {
		fmt.Println("model: histories need the VM: make test-vm")
		os.Exit(0)
	}
	os.Exit(m.Run())
}
