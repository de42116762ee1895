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

/*
 * take_slot takes the next slot of a table, 0 if there is none. What a program adds to
 * is known to it since 5.12 (upstream 5ca419f2864a); before, it has to try which slot is
 * free, and those that are taken are a prefix, since each takes the first that is free.
 */
#ifdef OLD_KERNEL
#define CLAIM_B (1U << 31)
#define EEXIST 17
#define TRIES 16

static __always_inline __u32 take_slot(void *table, struct counter *head)
{
	__u32 next = head->writes, slot, claim;
	__u8 one = 1;
	int err;

	for (int i = 0; i < TRIES; i++) {
		slot = next + 1 + i;
		if (!bpf_map_lookup_elem(table, &slot))
			return 0;
		claim = slot | (head->key.device ? CLAIM_B : 0);
		err = bpf_map_update_elem(&claims, &claim, &one, BPF_NOEXIST);
		if (!err) {
			__sync_fetch_and_add(&head->writes, 1);
			return slot;
		}
		/* One that can not be claimed for want of memory is free: no later one may be taken. */
		if (err != -EEXIST)
			return 0;
	}
	return 0;
}
#else
static __always_inline __u32 take_slot(void *table, struct counter *head)
{
	return __sync_fetch_and_add(&head->writes, 1) + 1;
}
#endif

/* new_counter takes a slot for a counter of this interval. */
static __always_inline struct counter *new_counter(void *table, struct counter_key *key, __u32 *slot)
{
	struct counter *counter;

	*slot = 0;
	counter = bpf_map_lookup_elem(table, slot);
	if (!counter)
		return NULL;
	*slot = take_slot(table, counter);
	if (!*slot)
		return NULL;
	counter = bpf_map_lookup_elem(table, slot);
	if (counter)
		counter->key = *key;
	return counter;
}

static __always_inline bool same_process(struct process_id *one, struct process_id *other)
{
	return one->start_ns == other->start_ns && one->pid == other->pid && one->exec == other->exec;
}

/*
 * announce tells userspace of who is behind a new counter, and wakes it if it wants to
 * know of the first: a barrier is between the counter's taking a slot and this looking
 * at armed, as one is between userspace's setting it and looking at the slots (see arm).
 * Who that is can be told by the process itself only: others may be at work for it
 * (write-back, an interrupt at the end of an asynchronous write).
 */
static __always_inline void announce(struct counter *counter, struct process_id *process)
{
	struct wake_record *record;
	struct process_id current;

	if (counter->announced == (ANNOUNCED | ANNOUNCED_PROCESS))
		return;
	if (!(counter->announced & ANNOUNCED_PROCESS) && !in_kernel_thread()) {
		current_process(&current);
		if (same_process(&current, process)) {
			counter->announced |= ANNOUNCED_PROCESS;
			announce_process(&current);
		}
	}
	if (counter->announced & ANNOUNCED)
		return;
	counter->announced |= ANNOUNCED;
	if (!armed)
		return;
	record = bpf_ringbuf_reserve(&events, sizeof(*record), 0);
	if (!record)
		return;
	record->kind = RECORD_WAKE;
	bpf_ringbuf_submit(record, wake_flags());
}

/* other_counter finds or opens a counter that its file's page does not remember. */
static __always_inline struct counter *other_counter(void *table, struct counter_key *key)
{
	__u32 *known = bpf_map_lookup_elem(&others, key), slot = 0;
	struct counter *counter;

	if (known) {
		slot = *known;
		counter = bpf_map_lookup_elem(table, &slot);
		if (counter && counter->key.inode == key->inode && counter->key.generation == key->generation &&
		    counter->key.device == key->device && counter->key.layer == key->layer &&
		    same_process(&counter->key.process, &key->process))
			return counter;
	}
	counter = new_counter(table, key, &slot);
	if (counter)
		bpf_map_update_elem(&others, key, &slot, BPF_ANY);
	return counter;
}

/* in_slot is the counter that the page of a file remembers; NULL if that is not the file's. */
static __always_inline struct counter *in_slot(void *table, struct file_entry *file, __u64 inode)
{
	__u32 slot = file->slot;
	struct counter *counter = bpf_map_lookup_elem(table, &slot);

	if (counter && counter->key.generation == file->generation && counter->key.inode == inode &&
	    counter->key.layer == file->layer)
		return counter;
	return NULL;
}

/*
 * search_counter finds or opens the counter of a file and a process that the page does
 * not remember; NULL if there is no room. The first process that changes a file in an
 * interval has its counter in the page. (A function of its own, for the stack's sake.)
 */
static __noinline struct counter *search_counter(struct file_entry *file, __u64 inode, struct process_id *process)
{
	struct counter_key key = {};
	struct counter *counter;
	__u32 slot = 0;
	void *table;

	if (!file || !process)
		return NULL;
	table = bpf_map_lookup_elem(&counters, &slot);
	if (!table)
		return NULL;
	key.inode = inode;
	key.generation = file->generation;
	key.process = *process;
	key.layer = file->layer;
	if (in_slot(table, file, inode))
		return other_counter(table, &key);
	counter = new_counter(table, &key, &slot);
	if (counter)
		file->slot = slot;
	return counter;
}

static __always_inline struct counter *counter_of(struct file_entry *file, __u64 inode, struct process_id *process)
{
	struct counter *counter = NULL;
	__u32 zero = 0;
	void *table;

	table = bpf_map_lookup_elem(&counters, &zero);
	if (table)
		counter = in_slot(table, file, inode);
	if (counter && same_process(&counter->key.process, process))
		return counter;
	counter = search_counter(file, inode, process);
	if (counter)
		announce(counter, process);
	return counter;
}

static __always_inline volatile struct recent *recent_of(__u64 inode)
{
	return &recent[inode & (RECENT - 1)];
}

/* forget is called when a page comes or goes, its size changes, or its writer. */
static __always_inline void forget(__u64 inode)
{
	if (recent_of(inode)->slot)
		recent_of(inode)->slot = 0;
}

static __always_inline void written_by(struct file_entry *file, struct file_key *key, struct process_id *process)
{
	file->writer = *process;
	forget(key->inode);
}

static __always_inline __u64 recent_check(__u64 generation, __u32 device)
{
	return generation ^ (__u64)device << 32;
}

/*
 * counted_again is counted_at_once for a file of which `recent` knows the counter. That
 * may be one of a layer that has been removed, until the next Collect.
 */
static __always_inline bool counted_again(const bool typed, struct inode *inode, __u64 bytes)
{
	__u64 number = READ(typed, inode, i_ino);
	__u32 slot = recent_of(number)->slot, zero = 0;
	struct process_id process;
	struct counter *counter;
	void *table;

	if (!slot)
		return false;
	table = bpf_map_lookup_elem(&counters, &zero);
	if (!table)
		return false;
	counter = bpf_map_lookup_elem(table, &slot);
	if (!counter || counter->key.inode != number || counter->file_size != READ(typed, inode, i_size) ||
	    recent_check(counter->key.generation, READ(typed, READ(typed, inode, i_sb), s_dev)) != recent_of(number)->check ||
	    !(counter->causes & CAUSE_WRITE))
		return false;
	current_process(&process);
	if (!same_process(&counter->key.process, &process))
		return false;
	__sync_fetch_and_add(&counter->written, bytes);
	__sync_fetch_and_add(&counter->writes, 1);
	return true;
}

/*
 * counted_at_once counts a write of the current process that changes nothing else, if
 * that takes no more than adding it up: what most writes are.
 */
static __always_inline bool counted_at_once(struct file_entry *file, struct file_key *key, __u64 bytes)
{
	struct process_id process;
	struct counter *counter;
	__u32 zero = 0;
	void *table;

	table = bpf_map_lookup_elem(&counters, &zero);
	if (!table)
		return false;
	counter = in_slot(table, file, key->inode);
	if (!counter || !(counter->causes & CAUSE_WRITE))
		return false;
	current_process(&process);
	if (!same_process(&counter->key.process, &process) || !same_process(&file->writer, &process))
		return false;
	__sync_fetch_and_add(&counter->written, bytes);
	__sync_fetch_and_add(&counter->writes, 1);
	/* Of others the allocated bytes are read, or the page may be given up. */
	if (file->disk_method == DISK_QUOTA && file->state == STATE_LIVE && file->settled) {
		counter->file_size = file->size;
		recent_of(key->inode)->check = recent_check(file->generation, key->device);
		recent_of(key->inode)->slot = file->slot;
	}
	return true;
}

static __noinline int book(struct file_entry *file, struct file_key *where, struct process_id *process,
		    struct change *change)
{
	struct counter *counter;

	if (!file || !where || !process || !change)
		return 0;
	counter = counter_of(file, where->inode, process);
	if (!counter) {
		overflow(file->layer, change);
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

	__sync_fetch_and_add(&file->disk_events, 1);
	if (state == STATE_LIVE) {
		if (actor(&process, file))
			written_by(file, key, &process);
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
	actor(&process, file);
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
		__sync_fetch_and_add(&file->other_events, 1);
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
		written_by(file, key, &process);
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
		__sync_fetch_and_add(&file->other_events, 1);
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
	forget(key->inode);
	if (actor(&process, file))
		file->writer = process;
	book(file, key, &process, change);
}
