/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What has to be known of a thread between a kernel function's entry and its return. */
#pragma once

/* Functions that a thread is in. */
#define WITHIN_REMOVE (1 << 0) /* ovl_do_remove */
#define WITHIN_COPY (1 << 1) /* vfs_copy_file_range, to a file of the ledger */
#define WITHIN_WRITEBACK (1 << 2) /* do_writepages, of a file of the ledger */
#define LEAVES_WHITEOUT (1 << 3) /* the removal does */

/* What a thread in ovl_rename renames, and the whiteout that it leaves. */
struct rename {
	__u64 old; /* a dentry; 0: it is in none */
	struct file_key whiteout; /* inode 0: none, or none that takes a block */
};

/* How many functions' arguments are kept at the thread, and how many of each; see enter. */
#define THREAD_CALLS 8
#define THREAD_ARGUMENTS 3

struct thread {
	__u64 within;
	__u64 copied_up; /* the dentry, in ovl_copy_up_one; else 0 */
	struct rename rename;
	__u64 arguments[THREAD_CALLS][THREAD_ARGUMENTS]; /* the first is 0 outside of the call */
};

const struct thread idle_thread = {};

/* By thread, where it can not be kept with the task. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct thread);
} threads SEC(".maps");

#ifndef OLD_KERNEL
/*
 * With the task, which takes a tenth of the time, and goes with it: for programs that
 * trace since 5.13 (upstream a10787e6d58c).
 */
struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct thread);
} task_threads SEC(".maps");

/* Set once the kernel would not: from then on a thread may be in `threads`. */
volatile __u32 elsewhere = 0;
#endif

static __always_inline struct thread *thread_in_map(bool open)
{
	__u64 id = bpf_get_current_pid_tgid();
	struct thread *thread = bpf_map_lookup_elem(&threads, &id);

	if (thread || !open)
		return thread;
	bpf_map_update_elem(&threads, &id, &idle_thread, BPF_NOEXIST);
	return bpf_map_lookup_elem(&threads, &id);
}

/* this_thread is what is known of the current thread; NULL for nothing, unless open. */
static __always_inline struct thread *this_thread(bool open)
{
#ifdef OLD_KERNEL
	return thread_in_map(open);
#else
	struct thread *thread;

	if (elsewhere) {
		thread = thread_in_map(false);
		if (thread)
			return thread;
	}
	thread = bpf_task_storage_get(&task_threads, bpf_get_current_task_btf(), NULL,
				      open ? BPF_LOCAL_STORAGE_GET_F_CREATE : 0);
	if (thread || !open)
		return thread;
	elsewhere = 1;
	return thread_in_map(true);
#endif
}

/* thread_left is called when a thread has left a function, and gives up one that is in none. */
static __always_inline void thread_left(struct thread *thread)
{
	__u64 id;

#ifndef OLD_KERNEL
	if (!elsewhere)
		return;
	for (int i = 0; i < THREAD_CALLS; i++)
		if (thread->arguments[i][0])
			return;
#endif
	if (thread->within || thread->copied_up || thread->rename.old)
		return;
	id = bpf_get_current_pid_tgid();
	bpf_map_delete_elem(&threads, &id);
}

/* Threads in ovl_copy_up_one now: spares everyone else a look at the thread. */
volatile __s64 copying_up = 0;
/* The same of vfs_copy_file_range, do_writepages and ovl_rename. */
volatile __s64 copying = 0;
volatile __s64 writing_back = 0;
volatile __s64 renaming = 0;

/* being_copied_up is what the current thread is copying up; NULL for nothing. */
static __always_inline struct dentry *being_copied_up(void)
{
	struct thread *thread;

	if (copying_up <= 0)
		return NULL;
	thread = this_thread(false);
	return thread ? (struct dentry *)thread->copied_up : NULL;
}

/* is_within tells whether the current thread is in a function; count is how many are. */
static __always_inline bool is_within(__s64 count, __u64 function)
{
	struct thread *thread;

	if (count <= 0)
		return false;
	thread = this_thread(false);
	return thread && thread->within & function;
}

static __always_inline void goes_into(volatile __s64 *count, __u64 function)
{
	struct thread *thread = this_thread(true);

	if (!thread || thread->within & function)
		return;
	thread->within |= function;
	__sync_fetch_and_add(count, 1);
}

static __always_inline void comes_from(volatile __s64 *count, __u64 function)
{
	struct thread *thread;

	if (*count <= 0)
		return;
	thread = this_thread(false);
	if (!thread || !(thread->within & function))
		return;
	thread->within &= ~function;
	__sync_fetch_and_add(count, -1);
	thread_left(thread);
}
