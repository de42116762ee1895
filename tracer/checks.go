package tracer

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Check is one thing that tracing needs of the kernel or of its privileges.
type Check struct {
	Name     string
	OK       bool
	Required bool
	// Detail is what was found, in words.
	Detail string
	// Hint is the command or setting that mends it; empty if OK.
	Hint string
}

// Checks looks at everything that New relies on, and tells for each what is
// missing and what mends it. It loads and attaches a program that does nothing,
// and takes it down again; it changes nothing else and never fails.
func Checks() []Check {
	cache := btf.NewCache()
	checks := []Check{checkKernel(), checkRoot(), checkCapabilities(), checkLockdown(), checkBTF(cache), checkQuota(cache)}
	overlay, functions := checkOverlay(cache)
	checks = append(checks, overlay)
	if functions != nil {
		checks = append(checks, checkFunctions(functions))
	}
	return append(checks, checkProgram(), checkMethod())
}

// PlannedHooks lists the hooks that New would use on this kernel.
func PlannedHooks(covered bool) ([]Hook, error) {
	functions, err := loadKernelFunctions(btf.NewCache())
	if err != nil {
		return nil, err
	}
	chosen, _, err := plan(functions, covered)
	use, _ := probes(MethodAuto)
	return hooksOf(attachments(functions, chosen, use)), err
}

func checkKernel() Check {
	check := Check{Name: "kernel", Required: true, Hint: "run a kernel of Linux 5.10 or later"}
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		check.Detail = err.Error()
		return check
	}
	check.Detail = "Linux " + unix.ByteSliceToString(name.Release[:]) + " " + unix.ByteSliceToString(name.Machine[:])
	check.OK = !kernelBefore(5, 10)
	return passed(check)
}

// kernelBefore tells whether the running kernel's version, as far as it can be
// read, is an earlier one.
func kernelBefore(major, minor int) bool {
	var (
		name unix.Utsname
		is   [2]int
	)
	if err := unix.Uname(&name); err != nil {
		return false
	}
	if _, err := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &is[0], &is[1]); err != nil {
		return false
	}
	return slices.Compare(is[:], []int{major, minor}) < 0
}

func passed(check Check) Check {
	if check.OK {
		check.Hint = ""
	}
	return check
}

func checkRoot() Check {
	uid := os.Geteuid()
	return passed(Check{
		Name: "root", Required: true, OK: uid == 0,
		Detail: fmt.Sprintf("effective user id %d", uid),
		Hint:   "sudo layertrace …",
	})
}

// checkCapabilities demands what loading, attaching and reading layers takes.
func checkCapabilities() Check {
	check := Check{
		Name: "capabilities", Required: true,
		Hint: "give the process CAP_SYS_ADMIN, CAP_BPF, CAP_PERFMON, CAP_DAC_READ_SEARCH and CAP_SYS_PTRACE, before Linux 5.11 CAP_SYS_RESOURCE, too (in Docker: --privileged --pid=host)",
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		check.Detail = err.Error()
		return check
	}
	var missing []string
	for _, capability := range []struct {
		name string
		bit  uint
	}{
		{"CAP_SYS_ADMIN", unix.CAP_SYS_ADMIN}, {"CAP_BPF", unix.CAP_BPF}, {"CAP_PERFMON", unix.CAP_PERFMON},
		{"CAP_DAC_READ_SEARCH", unix.CAP_DAC_READ_SEARCH}, {"CAP_SYS_PTRACE", unix.CAP_SYS_PTRACE},
	} {
		if data[capability.bit/32].Effective&(1<<(capability.bit%32)) == 0 {
			missing = append(missing, capability.name)
		}
	}
	check.OK = len(missing) == 0
	check.Detail = "all that are needed"
	if !check.OK {
		check.Detail = "missing " + strings.Join(missing, ", ")
	}
	return passed(check)
}

// checkLockdown reads the lockdown LSM: at "confidentiality" it forbids programs
// to read kernel memory.
func checkLockdown() Check {
	check := Check{Name: "lockdown", Required: true, Hint: "boot without lockdown=confidentiality"}
	raw, err := os.ReadFile("/sys/kernel/security/lockdown")
	if err != nil {
		check.OK, check.Detail = true, "not in use (or securityfs is not mounted)"
		return passed(check)
	}
	_, rest, _ := strings.Cut(string(raw), "[")
	mode, _, _ := strings.Cut(rest, "]")
	check.OK, check.Detail = mode != "confidentiality", mode
	return passed(check)
}

func checkBTF(cache *btf.Cache) Check {
	check := Check{
		Name: "kernel BTF", Required: true, Detail: "/sys/kernel/btf/vmlinux",
		Hint: "run a kernel built with CONFIG_DEBUG_INFO_BTF=y (grep DEBUG_INFO_BTF /boot/config-$(uname -r))",
	}
	if _, err := cache.Kernel(); err != nil {
		check.Detail = err.Error()
		return check
	}
	check.OK = true
	return passed(check)
}

func checkOverlay(cache *btf.Cache) (Check, *kernelFunctions) {
	check := Check{Name: "overlay", Required: true, Hint: "modprobe overlay"}
	functions, err := loadKernelFunctions(cache)
	switch {
	case errors.Is(err, ErrNoBTF):
		check.Detail = "cannot be examined without the kernel's BTF"
		check.Hint = ""
	case err != nil:
		check.Detail = "the module is not loaded"
	case functions.symbols != nil:
		check.OK, check.Detail = true, "available, without BTF: its functions are traced by single probes"
	default:
		check.OK, check.Detail = true, "available, with BTF"
	}
	return passed(check), functions
}

func checkFunctions(functions *kernelFunctions) Check {
	check := Check{
		Name: "hooks", Required: true,
		Hint: "please report this kernel: it lacks a function that all kernels tried so far have",
	}
	chosen, reasons, err := plan(functions, false)
	if err != nil {
		check.Detail = strings.ReplaceAll(err.Error(), "\n", "; ")
		return check
	}
	check.OK = true
	check.Detail = fmt.Sprintf("%d functions to trace, all found", len(chosen))
	if len(reasons) > 0 {
		check.Detail = fmt.Sprintf("%d functions to trace; not seen: %s", len(chosen), strings.Join(reasons, ", "))
	}
	return passed(check)
}

// checkProgram loads and attaches a program that does nothing: what policies
// forbid shows only here.
func checkProgram() Check {
	check := Check{
		Name: "attaching a program", Required: true,
		Hint: "the kernel's policy forbids tracing programs: look for lockdown, seccomp and LSM messages in dmesg, or use another kernel",
	}
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name:         "nothing",
		Type:         ebpf.Tracing,
		AttachType:   ebpf.AttachTraceFEntry,
		AttachTo:     "vfs_fallocate",
		License:      "Dual BSD/GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	if err != nil {
		check.Detail = "loading: " + err.Error()
		return check
	}
	defer program.Close()
	attached, err := link.AttachTracing(link.TracingOptions{Program: program})
	if err != nil {
		check.Detail = "attaching: " + err.Error()
		return check
	}
	_ = attached.Close()
	check.OK, check.Detail = true, "a tracing program was loaded and attached"
	return passed(check)
}

// checkMethod tells how the hooks are attached, and why so.
func checkMethod() Check {
	check := Check{Name: "way of attaching", OK: true, Detail: "fentry and fexit, the cheaper one: this kernel does not preempt itself"}
	switch use, reason := probes(MethodAuto); {
	case use:
		check.Detail = "kprobe.multi: this kernel preempts itself, which makes it skip programs on trampolines"
	case reason != "":
		check.OK, check.Detail = false, reason
		check.Hint = "run a kernel built with CONFIG_FPROBE=y"
	}
	return check
}

// checkQuota tells whether allocated bytes are followed exactly on ext2 to ext4:
// the quota hooks are there only with CONFIG_QUOTA.
func checkQuota(cache *btf.Cache) Check {
	check := Check{Name: "allocated bytes", Required: true, Detail: "exact on ext4", OK: true}
	if kernel, err := cache.Kernel(); err == nil {
		var fn *btf.Func
		if kernel.TypeByName("__dquot_alloc_space", &fn) != nil {
			check.OK = false
			check.Detail = "the kernel has no quota hooks"
			check.Hint = "run a kernel built with CONFIG_QUOTA=y"
		}
	}
	return passed(check)
}
