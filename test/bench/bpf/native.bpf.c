/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What programs do, without a function that they are attached to: for kernels that let
 * such programs run, but not trace. The file is the executable of whoever runs them.
 */
#define BODIES_ONLY
#include "../../../bpf/layertrace.bpf.c"

struct native_args {
	__u64 rounds;
};

const struct native_args *native_args_type __attribute__((unused));

static __always_inline struct file *own_executable(void)
{
	return READ(TASK_TYPED, READ(TASK_TYPED, current_task(), mm), exe_file);
}

static long native_nothing_step(__u32 index, void *unused)
{
	return own_executable() ? 0 : 1;
}

static long native_lookup_step(__u32 index, void *unused)
{
	struct file_key key;

	find_as(TASK_TYPED, READ(TASK_TYPED, own_executable(), f_inode), &key);
	return 0;
}

static long native_write_step(__u32 index, void *unused)
{
	written_by_call(TASK_TYPED, own_executable(), 1);
	return 0;
}

static long native_allocate_step(__u32 index, void *unused)
{
	quota_changed(TASK_TYPED, READ(TASK_TYPED, own_executable(), f_inode), 4096);
	return 0;
}

#define NATIVE(name)                                                  \
	SEC("raw_tp") int name(struct native_args *args)              \
	{                                                             \
		bpf_loop(args->rounds, name##_step, NULL, 0);         \
		return 0;                                             \
	}

NATIVE(native_nothing)
NATIVE(native_lookup)
NATIVE(native_write)
NATIVE(native_allocate)
