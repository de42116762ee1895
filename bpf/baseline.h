/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Baseline and audit: programs that the tracer runs itself (BPF_PROG_TEST_RUN). */
#pragma once

enum {
	TRACK_NEW = 0,
	TRACK_KNOWN = 1,
	TRACK_FULL = 2,

	SETTLE_DONE = 0,
	SETTLE_AGAIN = 1,
	SETTLE_GONE = 2,
	SETTLE_TAKEN = 3,

	TURN_DONE = 0,
	TURN_CHANGED = 1,
};

/* track opens the page of an inode that the scan is about to look at. */
SEC("raw_tp")
int track(struct track_args *args)
{
	struct file_key key = { .inode = args->inode, .device = args->device };
	struct file_entry entry = {
		.generation = args->generation,
		.size = (args->mode & S_IFMT) == S_IFDIR ? 0 : SIZE_UNKNOWN,
		.disk = args->disk_method == DISK_QUOTA ? 0 : DISK_UNKNOWN,
		.layer = args->layer,
		.mode = args->mode,
		.state = STATE_LIVE,
		.disk_method = args->disk_method,
		.plain = args->plain,
	};

	if (bpf_map_update_elem(&files, &key, &entry, BPF_NOEXIST) == 0) {
		forget(key.inode);
		return TRACK_NEW;
	}
	return bpf_map_lookup_elem(&files, &key) ? TRACK_KNOWN : TRACK_FULL;
}

/*
 * untrack gives up a page that was opened for an inode without a name: somebody holds
 * it open, and what is done to it is no growth of the layer. What was booked on it
 * since is booked back. The page stays until evict.
 */
SEC("raw_tp")
int untrack(struct untrack_args *args)
{
	struct file_key key = { .inode = args->inode, .device = args->device };
	struct file_entry *file = bpf_map_lookup_elem(&files, &key);
	struct change change = {};
	struct process_id process;
	__s64 before;

	if (!file || file->generation != args->generation || file->state != STATE_LIVE || file->settled)
		return 0;
	process = file->writer;
	file->state = STATE_PENDING;
	before = exchange(&file->disk, 0);
	if (file->disk_method == DISK_QUOTA || before != DISK_UNKNOWN)
		change.disk = file->base_disk - before;
	before = exchange(&file->size, 0);
	if ((file->mode & S_IFMT) != S_IFDIR && before != SIZE_UNKNOWN)
		change.size = file->base_size - before;
	if (change.size || change.disk)
		book(file, &key, &process, &change);
	return 0;
}

/*
 * settle gives a page its baseline, what stat said after track; if no disk was
 * booked on it since userspace looked (disk_events, disk), stat and page speak of
 * the same moment. A size that a hook has read meanwhile is the baseline instead,
 * and so are allocated bytes where they are read.
 */
SEC("raw_tp")
int settle(struct settle_args *args)
{
	struct file_key key = { .inode = args->inode, .device = args->device };
	struct file_entry *file = bpf_map_lookup_elem(&files, &key);
	int answer = SETTLE_DONE;

	if (!file || file->generation != args->generation || file->state != STATE_LIVE)
		return SETTLE_GONE;
	if (file->settled)
		return SETTLE_TAKEN;
	if (file->disk_events != args->disk_events)
		return SETTLE_AGAIN;
	if (file->disk_method == DISK_QUOTA) {
		file->base_disk = args->allocated - args->disk;
		__sync_fetch_and_add(&file->disk, file->base_disk);
	} else if (compare_exchange(&file->disk, DISK_UNKNOWN, args->allocated) == DISK_UNKNOWN) {
		file->base_disk = args->allocated;
	} else {
		answer = SETTLE_TAKEN;
	}
	file->settled = 1;
	if ((file->mode & S_IFMT) == S_IFDIR)
		return answer;
	if (compare_exchange(&file->size, SIZE_UNKNOWN, args->size) != SIZE_UNKNOWN)
		return SETTLE_TAKEN;
	file->base_size = args->size;
	return answer;
}

/*
 * turn brings a page in step with what an audit has found on the disk, and books
 * nothing: that is the audit's to do. Otherwise the next hook would book the same
 * difference once more. Nothing may have happened to the file since the audit
 * looked (events, and what the page said). A size that changes between the two
 * comparisons is made good by the next audit.
 */
SEC("raw_tp")
int turn(struct turn_args *args)
{
	struct file_key key = { .inode = args->inode, .device = args->device };
	struct file_entry *file = bpf_map_lookup_elem(&files, &key);

	if (!file || file->generation != args->generation || file->disk_events + file->other_events != args->events ||
	    file->state != STATE_LIVE || !file->settled)
		return TURN_CHANGED;
	if (compare_exchange(&file->disk, args->seen_disk, args->allocated) != args->seen_disk)
		return TURN_CHANGED;
	if (args->size == SIZE_UNKNOWN)
		return TURN_DONE;
	if (compare_exchange(&file->size, args->seen_size, args->size) != args->seen_size)
		return TURN_CHANGED;
	forget(key.inode);
	return TURN_DONE;
}

#if !defined(OLD_KERNEL) && !defined(BODIES_ONLY)
#define HELD 0xffffffffffffff01LL /* a writer, or readers: not those who wait (since 5.3) */

/*
 * allocating: somebody has the right to change what the file has allocated. That takes
 * several steps, some before the hook that tells of it and some after, and write-back
 * takes two without any hook: all while i_data_sem is held, or for attributes xattr_sem.
 */
static __always_inline bool allocating(struct ext4_inode_info *ext4)
{
	return (BPF_CORE_READ(ext4, i_data_sem.count.counter) | BPF_CORE_READ(ext4, xattr_sem.count.counter)) & HELD;
}

/* stat_bytes is what stat says of a file on ext4, as st_blocks * 512. */
static __always_inline __s64 stat_bytes(struct inode *inode)
{
	return allocated_bytes(inode, DISK_QUOTA) + reserved_bytes(inode);
}

/* in_order keeps what is read before it from being read after it. */
static __always_inline void in_order(struct file_entry *file)
{
	__u64 events = __sync_fetch_and_add(&file->disk_events, 0);

	asm volatile("" : : "r"(events) : "memory");
}

/* look_at is a function of its own as allocated_bytes is. False: there is no telling. */
static __noinline bool look_at(struct file_entry *file, struct inode *inode, struct look_record *record)
{
	struct ext4_inode_info *ext4;

	if (!file || !record)
		return false;
	if (!bpf_core_type_exists(struct ext4_inode_info) || !bpf_core_field_exists(struct rw_semaphore, count) ||
	    BPF_CORE_READ(inode, i_sb, s_magic) != EXT4_SUPER_MAGIC)
		return false;
	ext4 = (void *)inode - bpf_core_field_offset(struct ext4_inode_info, vfs_inode);
	record->steady = !allocating(ext4);
	in_order(file);
	record->allocated = stat_bytes(inode);
	in_order(file);
	__builtin_memcpy(&record->page, file, sizeof(*file));
	in_order(file);
	if (record->allocated != stat_bytes(inode))
		record->steady = 0;
	in_order(file);
	if (allocating(ext4) || file->disk_events != record->page.disk_events || file->disk != record->page.disk)
		record->steady = 0;
	return true;
}

/*
 * look compares with their pages the inodes that the tracer has open. It is run by
 * reading from an iterator, which comes by the files of all processes.
 */
SEC("iter/task_file")
int look(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *opened = ctx->file;
	struct look_record record = {};
	struct file_entry *file;

	if (!task || !opened || task->tgid != (int)(bpf_get_current_pid_tgid() >> 32))
		return 0;
	file = find_as(true, opened->f_inode, &record.file);
	if (!file || file->disk_method != DISK_QUOTA)
		return 0;
	record.fd = ctx->fd;
	if (look_at(file, opened->f_inode, &record))
		bpf_seq_write(ctx->meta->seq, &record, sizeof(record));
	return 0;
}
#endif
