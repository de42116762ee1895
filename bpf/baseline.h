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
 * looked (events). What comes in between the comparisons is made good by the next
 * audit.
 */
SEC("raw_tp")
int turn(struct turn_args *args)
{
	struct file_key key = { .inode = args->inode, .device = args->device };
	struct file_entry *file = bpf_map_lookup_elem(&files, &key);
	__s64 before;

	if (!file || file->generation != args->generation || file->disk_events + file->other_events != args->events ||
	    file->state != STATE_LIVE || !file->settled)
		return TURN_CHANGED;
	before = file->disk;
	if (compare_exchange(&file->disk, before, args->allocated) != before)
		return TURN_CHANGED;
	if (args->size == SIZE_UNKNOWN)
		return TURN_DONE;
	before = file->size;
	if (compare_exchange(&file->size, before, args->size) != before)
		return TURN_CHANGED;
	forget(key.inode);
	return TURN_DONE;
}
