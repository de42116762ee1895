/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Pages of the ledger, and booking what changed on a process. */
#pragma once

/* What one operation changed. */
struct change {
	__s64 size;
	__s64 disk;
	__s64 copy_up;
	__u64 written;
	__u32 writes;
	__u32 causes;
};

static __always_inline void overflow(__u32 layer_id, struct change *change)
{
	struct layer *layer = layer_of(layer_id);

	if (!layer)
		return;
	__sync_fetch_and_add(&layer->overflow_size, change->size);
	__sync_fetch_and_add(&layer->overflow_disk, change->disk);
	__sync_fetch_and_add(&layer->overflow_copy_up, change->copy_up);
	__sync_fetch_and_add(&layer->overflow_written, change->written);
	__sync_fetch_and_add(&layer->overflow_events, 1);
}

/* Not on the stack, of which there is little. */
const struct counter empty_counter = {};

/*
 * new_counter enters a (file, process) of this interval and announces it, so
 * that userspace reads what changed and nothing else. A record that does not fit
 * is only counted: userspace then reads the whole table.
 */
static __always_inline struct counter *new_counter(void *table, struct counter_key *key)
{
	struct counter_record *record;

	if (bpf_map_update_elem(table, key, &empty_counter, BPF_NOEXIST) == 0) {
		record = bpf_ringbuf_reserve(&events, sizeof(*record), 0);
		if (record) {
			record->kind = RECORD_COUNTER;
			record->key = *key;
			bpf_ringbuf_submit(record, wake_flags());
		} else {
			struct loss_counts *lost = lost_records();

			if (lost)
				__sync_fetch_and_add(&lost->counter_records, 1);
		}
	}
	return bpf_map_lookup_elem(table, key);
}

/* counter_of finds or enters the counter of a key; NULL if there is no room. */
static __always_inline struct counter *counter_of(struct counter_key *key)
{
	struct counter *counter;
	__u32 zero = 0;
	void *table;

	table = bpf_map_lookup_elem(&counters, &zero);
	if (!table)
		return NULL;
	counter = bpf_map_lookup_elem(table, key);
	if (counter)
		return counter;
	if (!in_kernel_thread())
		announce_process(&key->process);
	return new_counter(table, key);
}

static __noinline int book(struct file_entry *file, struct file_key *where, struct process_id *process,
		    struct change *change)
{
	struct counter_key key = {};
	struct counter *counter;

	if (!file || !where || !process || !change)
		return 0;
	key.inode = where->inode;
	key.generation = file->generation;
	key.process = *process;
	key.layer = file->layer;
	counter = counter_of(&key);
	if (!counter) {
		overflow(key.layer, change);
		return 0;
	}
	if (change->size)
		__sync_fetch_and_add(&counter->size, change->size);
	if (change->disk)
		__sync_fetch_and_add(&counter->disk, change->disk);
	if (change->copy_up)
		__sync_fetch_and_add(&counter->copy_up, change->copy_up);
	if (change->writes) {
		__sync_fetch_and_add(&counter->written, change->written);
		__sync_fetch_and_add(&counter->writes, change->writes);
	}
	/* Several CPUs may race to set the same few bits; a bit never clears. */
	if ((counter->causes & change->causes) != change->causes)
		set_bits(&counter->causes, change->causes);
	return 0;
}

static __always_inline void aside_changed(struct file_entry *file, __s64 bytes)
{
	struct layer *layer;

	if (file->state != STATE_DELETED)
		return;
	layer = layer_of(file->layer);
	if (layer)
		__sync_fetch_and_add(&layer->open_deleted, bytes);
}

/*
 * disk_changed books bytes that the file system allocated to an inode or freed.
 * Write-back may run beside an unlink or a link: whichever of the two comes
 * second sees the other's state and carries the bytes over, so none is counted
 * twice or left behind.
 */
static __always_inline void disk_changed(struct file_entry *file, struct file_key *key, __s64 bytes)
{
	struct change change = { .disk = bytes };
	struct process_id process;
	__u32 state = file->state;
	__s64 moved;

	__sync_fetch_and_add(&file->events, 1);
	__sync_fetch_and_add(&file->disk_events, 1);
	if (actor(&process, file) && state == STATE_LIVE)
		file->writer = process;
	if (state == STATE_LIVE) {
		__sync_fetch_and_add(&file->disk, bytes);
		book(file, key, &process, &change);
		if (file->state == STATE_LIVE)
			return;
		moved = exchange(&file->disk, 0);
		change.disk = -moved;
		book(file, key, &process, &change);
		__sync_fetch_and_add(&file->aside, moved);
		aside_changed(file, moved);
		return;
	}
	__sync_fetch_and_add(&file->aside, bytes);
	if (state == STATE_DELETED)
		aside_changed(file, bytes);
	if (file->state != STATE_LIVE)
		return;
	moved = exchange(&file->aside, 0);
	if (!moved)
		return;
	__sync_fetch_and_add(&file->disk, moved);
	change.disk = moved;
	book(file, key, &process, &change);
}

/* Whether an overlay uses the layer; without one, what goes there is its removal. */
static __always_inline bool in_use(struct file_entry *file)
{
	struct layer *layer = layer_of(file->layer);

	return layer && layer->mounts > 0;
}

/*
 * How often to look at an inode again after the page was turned: somebody on another
 * CPU, who had read the inode before it changed, may turn the page after the one who
 * knows better. Who turned it last looks last, so that the page is right in the end.
 */
#define LOOKS 4

/* put_aside brings the page of an inode that is pending or deleted in step with it. */
static __noinline int put_aside(struct file_entry *file, struct inode *inode)
{
	__s64 now, before;

	if (!file)
		return 0;
	for (int i = 0; i < LOOKS; i++) {
		now = allocated_bytes(inode, file->disk_method);
		if (file->aside == now)
			break;
		before = exchange(&file->aside, now);
		aside_changed(file, now - before);
	}
	return 0;
}

/*
 * disk_difference brings the ledger in step with an inode's allocated bytes on file
 * systems whose changes are not told, and returns what is to be booked. Differences
 * telescope. A file may be published or deleted meanwhile: as in disk_changed, who
 * comes second carries the bytes over.
 */
static __noinline __s64 disk_difference(struct file_entry *file, struct inode *inode)
{
	__s64 now, before, difference = 0;

	if (!file)
		return 0;
	if (file->state != STATE_LIVE) {
		put_aside(file, inode);
		if (file->state != STATE_LIVE)
			return 0;
		exchange(&file->aside, 0);
	}
	for (int i = 0; i < LOOKS; i++) {
		now = allocated_bytes(inode, file->disk_method);
		before = file->disk;
		/* Directories of a layer that is being removed shrink. */
		if (before == now || (now < before && (file->mode & S_IFMT) == S_IFDIR && !in_use(file)))
			break;
		before = exchange(&file->disk, now);
		__sync_fetch_and_add(&file->events, 1);
		if (before == DISK_UNKNOWN)
			file->base_disk = now;
		else
			difference += now - before;
	}
	if (file->state == STATE_LIVE)
		return difference;
	difference -= exchange(&file->disk, 0);
	put_aside(file, inode);
	return difference;
}

/* disk_read books it on whoever is at work. */
static __always_inline void disk_read(struct file_entry *file, struct file_key *key, struct inode *inode)
{
	struct change change = {};
	struct process_id process;

	if (file->disk_method == DISK_QUOTA)
		return;
	change.disk = disk_difference(file, inode);
	if (!change.disk)
		return;
	if (actor(&process, file))
		file->writer = process;
	book(file, key, &process, &change);
}

/*
 * size_difference brings the ledger in step with i_size and notes the difference. What
 * completes asynchronously does not hold the lock of overlayfs's inode.
 */
static __always_inline void size_difference(const bool typed, struct file_entry *file, struct inode *inode,
					    struct change *change)
{
	__s64 now, before;

	if (file->state == STATE_PENDING || (file->mode & S_IFMT) == S_IFDIR)
		return;
	for (int i = 0; i < LOOKS; i++) {
		now = READ(typed, inode, i_size);
		if (file->size == now)
			break;
		before = exchange(&file->size, now);
		if (before == SIZE_UNKNOWN)
			file->base_size = now;
		else if (file->state == STATE_LIVE)
			change->size += now - before;
		__sync_fetch_and_add(&file->events, 1);
	}
}

/*
 * size_changed compares i_size with the ledger and books the difference beside
 * what else happened. It is called where overlayfs holds the lock of its inode,
 * so that two writers of a file are told apart.
 */
static __always_inline void size_changed(const bool typed, struct file_entry *file, struct file_key *key,
					 struct inode *inode, struct change *change)
{
	struct process_id process;

	if (file->state == STATE_PENDING)
		return;
	size_difference(typed, file, inode, change);
	if (actor(&process, file))
		file->writer = process;
	book(file, key, &process, change);
}
