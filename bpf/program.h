/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Two ways onto a kernel function, one body.
 *
 * fentry and fexit are the cheaper way. But a program on a trampoline can be
 * preempted, and as long as a task is switched out inside of it, the kernel skips
 * that program for everybody else on the CPU (a "recursion miss"): on kernels that
 * preempt themselves, whole series of events would be missed. bpf_preempt_disable
 * does not help, the switch then comes at bpf_preempt_enable.
 *
 * kprobe.multi programs run with preemption off from before the kernel's check to
 * after it, so they miss nothing. A return probe does not get the arguments; the
 * entry probe leaves them in `calls`.
 */
#pragma once

#if defined(__TARGET_ARCH_x86)
struct pt_regs {
	unsigned long r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di;
	unsigned long orig_ax, ip, cs, flags, sp, ss;
};
#define ARGUMENTS(r) { (r)->di, (r)->si, (r)->dx, (r)->cx, (r)->r8, (r)->r9 }
#define RESULT(r) ((r)->ax)
#define SYSCALL(r) BPF_PROBE_READ(r, orig_ax)
#define SYSCALL_MSYNC 26
#elif defined(__TARGET_ARCH_arm64)
struct pt_regs {
	__u64 regs[31];
	__u64 sp, pc, pstate;
};
#define ARGUMENTS(r) { (r)->regs[0], (r)->regs[1], (r)->regs[2], (r)->regs[3], (r)->regs[4], (r)->regs[5] }
#define RESULT(r) ((r)->regs[0])
/* The number that the caller has put there. */
#define SYSCALL(r) BPF_PROBE_READ(r, regs[8])
#define SYSCALL_MSYNC 227
#endif

struct call_key {
	__u64 thread;
	__u64 hook;
};

struct call {
	__u64 arguments[6];
};

/* Arguments of the traced functions that threads are in. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, struct call_key);
	__type(value, struct call);
} calls SEC(".maps");

#ifndef OLD_KERNEL
/*
 * thread_call is where a thread keeps the arguments of a function that writes and changes
 * of attributes pass, as many as its program asks for; negative for others.
 */
static __always_inline int thread_call(__u64 hook)
{
	switch (hook) {
	case 4: /* drop_nlink */
		return 0;
	case 6: /* backing_file_write_iter */
		return 1;
	case 8: /* vfs_iter_write */
		return 2;
	case 9: /* vfs_iocb_iter_write */
		return 3;
	case 13: /* notify_change */
		return 4;
	case 17: /* __dquot_alloc_space */
		return 5;
	case 22: /* do_page_mkwrite */
		return 6;
	case 23: /* do_writepages */
		return 7;
	}
	return -1;
}
#endif

/*
 * enter keeps the arguments of a call for its return. Functions that overlayfs
 * calls once more, on the layer's file, from inside a call on its own are kept
 * for the inner call alone: the inode tells (NULL: the function does not nest).
 */
static __always_inline void enter(__u64 hook, struct inode *inode, unsigned long long *arguments)
{
	struct call_key key = { .thread = bpf_get_current_pid_tgid(), .hook = hook };
	struct call call;

	if (inode && !device_watched(READ(false, READ(false, inode, i_sb), s_dev)))
		return;
#ifndef OLD_KERNEL
	if (thread_call(hook) >= 0) {
		struct thread *thread = this_thread(true);

		if (thread) {
			__builtin_memcpy(thread->arguments[thread_call(hook)], arguments, sizeof(thread->arguments[0]));
			return;
		}
	}
#endif
	__builtin_memcpy(&call, arguments, sizeof(call));
	if (bpf_map_update_elem(&calls, &key, &call, BPF_ANY)) {
		struct loss_counts *lost = lost_records();

		if (lost)
			__sync_fetch_and_add(&lost->calls, 1);
	}
}

/* leave finds the arguments of the call that returns; false if none were kept. */
static __always_inline bool leave(__u64 hook, unsigned long long *arguments)
{
	struct call_key key = { .thread = bpf_get_current_pid_tgid(), .hook = hook };
	struct call *call;

#ifndef OLD_KERNEL
	if (thread_call(hook) >= 0) {
		struct thread *thread = this_thread(false);

		if (thread && thread->arguments[thread_call(hook)][0]) {
			__builtin_memcpy(arguments, thread->arguments[thread_call(hook)], sizeof(thread->arguments[0]));
			thread->arguments[thread_call(hook)][0] = 0;
			thread_left(thread);
			return true;
		}
		if (!elsewhere)
			return false;
	}
#endif
	call = bpf_map_lookup_elem(&calls, &key);
	if (!call)
		return false;
	__builtin_memcpy(arguments, call, sizeof(*call));
	bpf_map_delete_elem(&calls, &key);
	return true;
}

/*
 * argument is that of a function which gets a namespace or an idmap first, on
 * kernels where it does (see idmapped). The verifier wants to see each read of the
 * context at a fixed place: so the compiler must not make one of the two.
 */
#define argument(ctx, n)                                            \
	({                                                          \
		unsigned long long value;                           \
		if (idmapped) {                                     \
			value = (ctx)[n];                           \
			asm volatile("# idmapped" : "+r"(value));   \
		} else {                                            \
			value = (ctx)[(n) - 1];                     \
			asm volatile("# not" : "+r"(value));        \
		}                                                   \
		value;                                              \
	})

/* What an exit program asks enter to look at, by the number of the argument. */
#define OF_FILE(n) READ(false, (struct file *)ctx[n], f_inode)
#define OF_DENTRY READ(false, (struct dentry *)argument(ctx, 1), d_inode)
#define OF_IOCB READ(false, READ(false, (struct kiocb *)ctx[0], ki_filp), f_inode)
#define OF_INODE(n) ((struct inode *)ctx[n])
#define OF_FAULT BPF_CORE_READ((struct vm_fault *)ctx[0], vma, vm_file, f_inode)
#define OF_OLD_NAME READ(false, (struct dentry *)ctx[0], d_inode)
#define ALL_CALLS NULL

/* typed: whether the arguments are pointers that the verifier knows, see READ. */
#define RUN_BODY(name, typed, args...)                               \
	_Pragma("GCC diagnostic push")                               \
	_Pragma("GCC diagnostic ignored \"-Wint-conversion\"")       \
	name##_body(typed, ___bpf_ctx_cast(args));                   \
	_Pragma("GCC diagnostic pop")

/* ENTRY_PROGRAM defines a program at a function's entry; its body follows. */
#ifdef BODIES_ONLY
#define ENTRY_PROGRAM(target, name, args...)                                         \
	static __always_inline __attribute__((unused)) int name##_body(const bool typed, \
					       unsigned long long *ctx, ##args)
#else
#define ENTRY_PROGRAM(target, name, args...)                                     \
	static __always_inline int name##_body(const bool typed,             \
					       unsigned long long *ctx, ##args); \
	SEC("fentry/" target)                                                \
	int name(unsigned long long *ctx)                                    \
	{                                                                    \
		RUN_BODY(name, true, args)                                   \
		return 0;                                                    \
	}                                                                    \
	SEC("kprobe.multi/" target)                                          \
	int name##_kprobe(struct pt_regs *regs)                              \
	{                                                                    \
		unsigned long long ctx[8] = ARGUMENTS(regs);                 \
		RUN_BODY(name, false, args)                                  \
		return 0;                                                    \
	}                                                                    \
	static __always_inline int name##_body(const bool typed, unsigned long long *ctx, ##args)
#endif

/*
 * EXIT_PROGRAM defines a program at a function's return; its body follows. id
 * tells the hooks apart in `calls`, subject is what enter looks at, and result
 * says as which of its arguments the body takes the returned value, NO_RESULT if
 * it does not.
 */
#define NO_RESULT 7
#ifdef BODIES_ONLY
#define EXIT_PROGRAM(target, name, id, subject, result, args...) ENTRY_PROGRAM(target, name, ##args)
#else
#define EXIT_PROGRAM(target, name, id, subject, result, args...)                 \
	static __always_inline int name##_body(const bool typed,             \
					       unsigned long long *ctx, ##args); \
	SEC("fexit/" target)                                                 \
	int name(unsigned long long *ctx)                                    \
	{                                                                    \
		RUN_BODY(name, true, args)                                   \
		return 0;                                                    \
	}                                                                    \
	SEC("kprobe.multi/" target)                                          \
	int name##_kprobe(struct pt_regs *regs)                              \
	{                                                                    \
		unsigned long long ctx[8] = ARGUMENTS(regs);                 \
		enter(id, subject, ctx);                                     \
		return 0;                                                    \
	}                                                                    \
	SEC("kretprobe.multi/" target)                                       \
	int name##_kretprobe(struct pt_regs *regs)                           \
	{                                                                    \
		unsigned long long ctx[8] = {};                              \
		if (!leave(id, ctx))                                         \
			return 0;                                            \
		ctx[result] = RESULT(regs);                                  \
		RUN_BODY(name, false, args)                                  \
		return 0;                                                    \
	}                                                                    \
	static __always_inline int name##_body(const bool typed, unsigned long long *ctx, ##args)
#endif
