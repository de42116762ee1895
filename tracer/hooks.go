package tracer

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf/btf"
)

// Hook is one kernel function that is traced.
type Hook struct {
	Name   string // the program
	Kind   string // fentry, fexit, kprobe or kretprobe
	Target string // the kernel function
}

// hookSpec says where a program attaches and what its absence means.
type hookSpec struct {
	program string
	kind    string
	target  string
	// unless names a function that makes this hook superfluous where it exists.
	unless string
	// missing is what is not seen without the hook, "-" if that is nothing because
	// the kernel does the same elsewhere; empty if the hook is required.
	missing string
	covered bool // only for Config.IncludeCovered
}

const (
	fentry    = "fentry"
	fexit     = "fexit"
	kprobe    = "kprobe"
	kretprobe = "kretprobe"
)

// attachment is a program on a function: what becomes of a hookSpec once it is
// decided how to attach.
type attachment struct{ program, kind, target string }

// attachments spells hooks out for trampolines or for probes, see bpf/program.h.
func attachments(hooks []hookSpec, probes bool) []attachment {
	var list []attachment
	for _, hook := range hooks {
		switch {
		case !probes:
			list = append(list, attachment{hook.program, hook.kind, hook.target})
		case hook.kind == fentry:
			list = append(list, attachment{hook.program + "_kprobe", kprobe, hook.target})
		default:
			list = append(list, attachment{hook.program + "_kprobe", kprobe, hook.target},
				attachment{hook.program + "_kretprobe", kretprobe, hook.target})
		}
	}
	return list
}

// hookSpecs is every hook there is. Which of them a run uses is decided by what
// the kernel's BTF shows, never by its version: distributions backport.
var hookSpecs = []hookSpec{
	{program: "instantiate_entry", kind: fentry, target: "ovl_instantiate"},
	{program: "copy_up_entry", kind: fentry, target: "ovl_copy_up_one"},
	{program: "copy_up_exit", kind: fexit, target: "ovl_copy_up_one"},
	{program: "copied_up_entry", kind: fentry, target: "ovl_inode_update"},
	{program: "rename_exit", kind: fexit, target: "ovl_rename"},
	{program: "remove_entry", kind: fentry, target: "ovl_do_remove"},
	{program: "whiteout_entry", kind: fentry, target: "ovl_cleanup_and_whiteout", missing: "whiteouts"},
	{program: "remove_exit", kind: fexit, target: "ovl_do_remove"},
	{program: "mount_exit", kind: fexit, target: "ovl_fill_super"},
	{program: "unmount_entry", kind: fentry, target: "generic_shutdown_super"},
	{program: "drop_nlink_exit", kind: fexit, target: "drop_nlink"},
	{program: "clear_nlink_exit", kind: fexit, target: "clear_nlink"},
	{program: "evict_entry", kind: fentry, target: "evict"},
	{program: "backing_write_exit", kind: fexit, target: "backing_file_write_iter", missing: "-"},
	{program: "backing_splice_exit", kind: fexit, target: "backing_file_splice_write", missing: "-"},
	{program: "backing_aio_entry", kind: fentry, target: "backing_aio_rw_complete", missing: "-"},
	{program: "iter_write_exit", kind: fexit, target: "vfs_iter_write", unless: "backing_file_write_iter"},
	{program: "iocb_write_exit", kind: fexit, target: "vfs_iocb_iter_write", unless: "backing_file_write_iter"},
	{program: "ovl_aio_entry", kind: fentry, target: "ovl_aio_rw_complete", unless: "backing_file_write_iter", missing: "-"},
	{program: "fallocate_exit", kind: fexit, target: "vfs_fallocate"},
	{program: "copy_range_exit", kind: fexit, target: "vfs_copy_file_range"},
	{program: "clone_range_exit", kind: fexit, target: "vfs_clone_file_range"},
	{program: "notify_change_exit", kind: fexit, target: "notify_change"},
	{program: "setxattr_exit", kind: fexit, target: "vfs_setxattr", missing: "extended attributes are reported as other writes"},
	{program: "removexattr_exit", kind: fexit, target: "vfs_removexattr", missing: "extended attributes are reported as other writes"},
	{program: "set_acl_exit", kind: fexit, target: "vfs_set_acl", missing: "-"},
	{program: "page_mkwrite_entry", kind: fentry, target: "do_page_mkwrite", missing: "stores to shared mappings are reported as other writes"},
	{program: "quota_alloc_exit", kind: fexit, target: "__dquot_alloc_space"},
	{program: "quota_free_entry", kind: fentry, target: "__dquot_free_space"},
	{program: "covered_write_entry", kind: fentry, target: "vfs_write", covered: true},
	{program: "covered_write_exit", kind: fexit, target: "vfs_write", covered: true},
	{program: "covered_writev_entry", kind: fentry, target: "vfs_writev", covered: true, missing: "writev outside the layer"},
	{program: "covered_writev_exit", kind: fexit, target: "vfs_writev", covered: true, missing: "writev outside the layer"},
}

// kernelFunctions answers which functions the running kernel and its overlay
// module have, and with how many parameters.
type kernelFunctions struct{ specs []*btf.Spec }

// loadKernelFunctions reads the BTF of the kernel and of the overlay module.
// Errors match ErrNoBTF or ErrNoOverlay.
func loadKernelFunctions(cache *btf.Cache) (*kernelFunctions, error) {
	kernel, err := cache.Kernel()
	if err != nil {
		return nil, fmt.Errorf("reading the kernel's BTF: %w (%w)", ErrNoBTF, err)
	}
	functions := &kernelFunctions{specs: []*btf.Spec{kernel}}
	if functions.has("ovl_fill_super") {
		return functions, nil // built in
	}
	overlay, err := cache.Module("overlay")
	if err != nil {
		return nil, fmt.Errorf("reading the BTF of module overlay: %w (%w)", ErrNoOverlay, err)
	}
	functions.specs = append(functions.specs, overlay)
	return functions, nil
}

func (k *kernelFunctions) proto(name string) *btf.FuncProto {
	for _, spec := range k.specs {
		var fn *btf.Func
		if err := spec.TypeByName(name, &fn); err == nil {
			if proto, ok := fn.Type.(*btf.FuncProto); ok {
				return proto
			}
		}
	}
	return nil
}

func (k *kernelFunctions) has(name string) bool { return k.proto(name) != nil }

// plan chooses the hooks for this kernel; reasons tell what will not be seen.
// The error matches ErrUnsupported if counting could not be exact at all.
func plan(functions *kernelFunctions, covered bool) (hooks []hookSpec, reasons []string, err error) {
	var missing []error
	for _, hook := range hookSpecs {
		switch {
		case hook.covered && !covered:
		case hook.unless != "" && functions.has(hook.unless):
		case functions.has(hook.target):
			hooks = append(hooks, hook)
		case hook.missing == "":
			missing = append(missing, fmt.Errorf("kernel function %s: %w", hook.target, ErrUnsupported))
		case hook.missing != "-":
			reasons = append(reasons, hook.missing)
		}
	}
	return hooks, reasons, errors.Join(missing...)
}
