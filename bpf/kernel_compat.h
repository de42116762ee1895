/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Where kernels differ, or where a layout is relied on that BTF does not spell out. */
#pragma once

/*
 * upper_dentry returns the upper dentry of an overlay inode, or NULL if its data
 * is still in the image only. struct ovl_inode embeds the VFS inode and keeps
 * __upperdentry right behind it: so since 4.13 (upstream 09d8b586731b) and so
 * found in the BTF of 5.15, 6.1, 6.5, 6.8, 6.12, 6.18 and 7.3. Going by position
 * needs the size of struct inode only, so it works where modules have no BTF.
 */
static __always_inline struct dentry *upper_dentry(struct inode *overlay)
{
	struct dentry *upper = NULL;

	bpf_probe_read_kernel(&upper, sizeof(upper),
			      (void *)overlay + bpf_core_type_size(struct inode));
	return upper;
}

/* upper_inode is the inode behind upper_dentry, or NULL. */
static __always_inline struct inode *upper_inode(struct inode *overlay)
{
	struct dentry *upper;

	if (!overlay)
		return NULL;
	upper = upper_dentry(overlay);
	return upper ? BPF_CORE_READ(upper, d_inode) : NULL;
}

/*
 * allocated_bytes is what st_blocks * 512 says of an inode without delayed
 * allocation pending. That holds for an inode that has just been created.
 */
static __always_inline __s64 allocated_bytes(struct inode *inode)
{
	return ((__s64)BPF_CORE_READ(inode, i_blocks) << 9) + BPF_CORE_READ(inode, i_bytes);
}

/*
 * Programs on trampolines run preemptibly. The kernel skips a program where a
 * task was preempted inside of it on the same CPU (a "recursion miss"), until that
 * task runs again: with kernels that preempt (PREEMPT_LAZY is their default since
 * 6.18) a busy CPU would miss one event after the other. So programs do not let
 * themselves be preempted where there are means for that: since 6.10 (upstream
 * fc7566ad0a82). Kernels before that preempt only where configured as PREEMPT.
 */
extern void bpf_preempt_disable(void) __ksym __attribute__((weak));
extern void bpf_preempt_enable(void) __ksym __attribute__((weak));

static __always_inline void preemption_off(void)
{
	if (bpf_preempt_disable)
		bpf_preempt_disable();
}

static __always_inline void preemption_on(void)
{
	if (bpf_preempt_enable)
		bpf_preempt_enable();
}

/* PROGRAM defines a program on a trampoline; its body follows like a function's. */
#define PROGRAM(section, name, args...)                                      \
	static __always_inline int name##_body(unsigned long long *ctx, ##args); \
	SEC(section)                                                         \
	int name(unsigned long long *ctx)                                    \
	{                                                                    \
		preemption_off();                                            \
		_Pragma("GCC diagnostic push")                               \
		_Pragma("GCC diagnostic ignored \"-Wint-conversion\"")       \
		name##_body(___bpf_ctx_cast(args));                          \
		_Pragma("GCC diagnostic pop")                                \
		preemption_on();                                             \
		return 0;                                                    \
	}                                                                    \
	static __always_inline int name##_body(unsigned long long *ctx, ##args)
