package tracer

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/cilium/ebpf/btf"
)

// Hook is one kernel function that is traced.
type Hook struct {
	Name   string // the program
	Kind   string // fentry, fexit, kprobe or kretprobe
	Target string // the kernel function
	// Later is what kind of layer it is attached with: a file system, or plain
	// directories; empty if at the start.
	Later string
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
	// module is the file system that has the function. Its hooks are left out
	// where it is not there, and attached with the first layer on it.
	module string
	// plain: only for layers that are plain directories; attached with the first,
	// or if there is a module with the first on that file system.
	plain bool
}

// later is when a hook is attached: with the first layer that asks for this. Empty
// for at once.
func (h *hookSpec) later() string {
	if h.plain {
		return plainLayer + h.module
	}
	return h.module
}

// plainLayer begins the name of what layers that are plain directories ask for.
const plainLayer = "plain "

const (
	fentry    = "fentry"
	fexit     = "fexit"
	kprobe    = "kprobe"
	kretprobe = "kretprobe"
)

// attachment is a program on a function: what becomes of a hookSpec once it is
// decided how to attach.
type attachment struct {
	program, kind, target, later string
	// single: by a probe of its own instead of kprobe.multi.
	single bool
}

func hooksOf(list []attachment) []Hook {
	hooks := make([]Hook, len(list))
	for i, a := range list {
		hooks[i] = Hook{Name: a.program, Kind: a.kind, Target: a.target, Later: a.later}
	}
	return hooks
}

// attachments spells hooks out for trampolines or for probes, see bpf/program.h.
// What has no BTF is attached by single probes, which every kernel has.
func attachments(functions *kernelFunctions, hooks []hookSpec, probes bool) []attachment {
	var list []attachment
	for _, hook := range hooks {
		single := functions.proto(hook.target) == nil
		if !probes && !single {
			list = append(list, attachment{hook.program, hook.kind, hook.target, hook.later(), false})
			continue
		}
		list = append(list, attachment{hook.program + "_kprobe", kprobe, hook.target, hook.later(), single})
		if hook.kind == fexit {
			list = append(list, attachment{hook.program + "_kretprobe", kretprobe, hook.target, hook.later(), single})
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
	{program: "link_exit", kind: fexit, target: "vfs_link"},
	{program: "rename_entry", kind: fentry, target: "ovl_rename"},
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
	{program: "iocb_queue_entry", kind: fentry, target: "vfs_iocb_iter_write", missing: "the end of an asynchronous write may be charged to the file's last writer"},
	{program: "ovl_aio_entry", kind: fentry, target: "ovl_aio_rw_complete", unless: "backing_file_write_iter", missing: "-"},
	{program: "fallocate_exit", kind: fexit, target: "vfs_fallocate"},
	{program: "copy_range_entry", kind: fentry, target: "vfs_copy_file_range", unless: "backing_file_write_iter"},
	{program: "copy_range_exit", kind: fexit, target: "vfs_copy_file_range"},
	{program: "clone_range_exit", kind: fexit, target: "vfs_clone_file_range"},
	{program: "notify_change_exit", kind: fexit, target: "notify_change"},
	{program: "setxattr_exit", kind: fexit, target: "vfs_setxattr", missing: "extended attributes are reported as other writes"},
	{program: "removexattr_exit", kind: fexit, target: "vfs_removexattr", missing: "extended attributes are reported as other writes"},
	{program: "set_acl_exit", kind: fexit, target: "vfs_set_acl", missing: "-"},
	{program: "remove_acl_exit", kind: fexit, target: "vfs_remove_acl", missing: "-"},
	{program: "page_mkwrite_exit", kind: fexit, target: "do_page_mkwrite", missing: "stores to shared mappings are reported as other writes"},
	{program: "writepages_entry", kind: fentry, target: "do_writepages"},
	{program: "writepages_exit", kind: fexit, target: "do_writepages"},
	{program: "sync_write_entry", kind: fentry, target: "vfs_fsync_range"},
	{program: "quota_alloc_exit", kind: fexit, target: "__dquot_alloc_space"},
	{program: "quota_free_entry", kind: fentry, target: "__dquot_free_space"},
	{program: "xfs_unlock_entry", kind: fentry, target: "xfs_iunlock", module: xfs},
	{program: "btrfs_clear_exit", kind: fexit, target: "btrfs_clear_delalloc_extent", module: btrfs},
	{program: "btrfs_direct_entry", kind: fentry, target: "btrfs_file_write_iter", module: btrfs},
	{program: "shmem_fault_exit", kind: fexit, target: "shmem_fault", module: tmpfs},
	// That function came with the release in which reading ceased to allocate.
	{program: "shmem_read_exit", kind: fexit, target: "shmem_file_read_iter", unless: "noop_dirty_folio", module: tmpfs},
	{program: "covered_write_entry", kind: fentry, target: "vfs_write", covered: true},
	{program: "covered_write_exit", kind: fexit, target: "vfs_write", covered: true},
	{program: "covered_writev_entry", kind: fentry, target: "vfs_writev", covered: true, missing: "writev outside the layer"},
	{program: "covered_writev_exit", kind: fexit, target: "vfs_writev", covered: true, missing: "writev outside the layer"},
}

// plainHooks are for layers without an overlay. A kernel that lacks one cannot watch
// those, and others all the same.
var plainHooks = []hookSpec{
	{program: "plain_instantiate_entry", kind: fentry, target: "d_instantiate"},
	{program: "plain_instantiate_new_entry", kind: fentry, target: "d_instantiate_new"},
	{program: "plain_tmpfile_exit", kind: fexit, target: "d_tmpfile"},
	{program: "plain_move_entry", kind: fentry, target: "d_move"},
	{program: "plain_enter_entry", kind: fentry, target: "d_move"},
	{program: "plain_leave_entry", kind: fentry, target: "d_move"},
	{program: "plain_exchange_entry", kind: fentry, target: "d_exchange"},
	{program: "plain_delete_entry", kind: fentry, target: "d_delete"},
	{program: "plain_perform_exit", kind: fexit, target: "generic_perform_write"},
	{program: "plain_iomap_exit", kind: fexit, target: "iomap_file_buffered_write", missing: "-"},
	{program: "plain_copy_range_entry", kind: fentry, target: "vfs_copy_file_range"},
	{program: "plain_copy_range_exit", kind: fexit, target: "vfs_copy_file_range"},
	{program: "plain_aio_entry", kind: fentry, target: "aio_complete_rw", missing: "-"},
	{program: "plain_uring_entry", kind: fentry, target: "io_complete_rw", missing: "-"},
	{program: "plain_ext4_entry", kind: fentry, target: "ext4_file_write_iter", module: ext4},
	{program: "plain_ext4_exit", kind: fexit, target: "ext4_file_write_iter", module: ext4},
	{program: "plain_xfs_entry", kind: fentry, target: "xfs_file_write_iter", module: xfs},
	{program: "plain_xfs_exit", kind: fexit, target: "xfs_file_write_iter", module: xfs},
	{program: "plain_btrfs_entry", kind: fentry, target: "btrfs_file_write_iter", module: btrfs},
	{program: "plain_btrfs_exit", kind: fexit, target: "btrfs_file_write_iter", module: btrfs},
}

// File systems with hooks of their own, by the names that the mount table and
// their modules have.
const (
	ext4  = "ext4"
	xfs   = "xfs"
	btrfs = "btrfs"
	tmpfs = "tmpfs" // built in everywhere
)

// kernelFunctions answers which functions the running kernel and the modules that
// matter have.
type kernelFunctions struct {
	specs []*btf.Spec // the kernel's own comes first
	// symbols are the overlay module's functions where it has no BTF.
	symbols map[string]bool
}

// loadKernelFunctions reads the BTF of the kernel and of the file systems' modules;
// overlay has to be there. Errors match ErrNoBTF or ErrNoOverlay.
func loadKernelFunctions(cache *btf.Cache) (*kernelFunctions, error) {
	kernel, err := cache.Kernel()
	if err != nil {
		return nil, fmt.Errorf("reading the kernel's BTF: %w (%w)", ErrNoBTF, err)
	}
	functions := &kernelFunctions{specs: []*btf.Spec{kernel}}
	if !functions.has("ovl_fill_super") { // else it is built in
		if overlay, err := cache.Module("overlay"); err == nil {
			functions.specs = append(functions.specs, overlay)
		} else if functions.symbols = moduleSymbols("overlay"); len(functions.symbols) == 0 {
			return nil, fmt.Errorf("reading the BTF of module overlay: %w (%w)", ErrNoOverlay, err)
		}
	}
	for _, name := range []string{ext4, xfs, btrfs} {
		if module, err := cache.Module(name); err == nil {
			functions.specs = append(functions.specs, module)
		}
	}
	return functions, nil
}

// moduleSymbols lists the functions of a module that is loaded.
func moduleSymbols(module string) map[string]bool {
	table, err := os.Open("/proc/kallsyms")
	if err != nil {
		return nil
	}
	defer table.Close()
	symbols := make(map[string]bool)
	for lines := bufio.NewScanner(table); lines.Scan(); {
		// ffffffffc0a51000 t ovl_rename	[overlay]
		fields := strings.Fields(lines.Text())
		if len(fields) == 4 && fields[3] == "["+module+"]" && strings.EqualFold(fields[1], "t") {
			symbols[fields[2]] = true
		}
	}
	return symbols
}

// takes tells whether a function's first parameter points to that struct.
func (k *kernelFunctions) takes(function, structure string) bool {
	proto := k.proto(function)
	if proto == nil || len(proto.Params) == 0 {
		return false
	}
	pointer, ok := proto.Params[0].Type.(*btf.Pointer)
	return ok && pointer.Target.TypeName() == structure
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

func (k *kernelFunctions) has(name string) bool { return k.symbols[name] || k.proto(name) != nil }

// planPlain chooses those for layers without an overlay: all but of file systems that
// are not there; none if there is no file system left, or something else is missing.
func planPlain(functions *kernelFunctions) (hooks []hookSpec) {
	written := false
	for _, hook := range plainHooks {
		hook.plain = true
		switch {
		case functions.proto(hook.target) != nil:
			hooks = append(hooks, hook)
			written = written || hook.module != ""
		case hook.module == "" && hook.missing == "":
			return nil
		}
	}
	if !written {
		return nil
	}
	return hooks
}

// plan chooses the hooks for this kernel; reasons tell what will not be seen.
// The error matches ErrUnsupported if counting could not be exact at all.
func plan(functions *kernelFunctions, covered bool) (hooks []hookSpec, reasons []string, err error) {
	var missing []error
	for _, hook := range hookSpecs {
		switch {
		case hook.covered && !covered:
		case hook.module != "" && !functions.has(hook.target):
		case hook.unless != "" && functions.has(hook.unless):
		case functions.has(hook.target):
			hooks = append(hooks, hook)
		case hook.missing == "":
			missing = append(missing, fmt.Errorf("kernel function %s: %w", hook.target, ErrUnsupported))
		case hook.missing != "-":
			reasons = append(reasons, hook.missing)
		}
	}
	return append(hooks, planPlain(functions)...), reasons, errors.Join(missing...)
}
