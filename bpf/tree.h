/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Names: where in its layer a file can be found. */
#pragma once

/* What emit_file sends. */
struct file_event {
	__u32 op;
	__u32 layer;
	__u32 mode;
	__u32 name_len;
	__u64 inode;
	__u64 generation;
	__u64 parent_inode;
	__u64 parent_generation;
	struct process_id process;
	const unsigned char *name; /* without one name_len is 0 */
};

static __always_inline void name_of(const bool typed, struct file_event *event, struct dentry *dentry)
{
	event->name_len = READ(typed, dentry, d_name.len);
	event->name = READ(typed, dentry, d_name.name);
}

#define FILL_FILE_RECORD(record, event, length)                     \
	do {                                                        \
		(record)->kind = RECORD_FILE;                       \
		(record)->op = (event)->op;                         \
		(record)->layer = (event)->layer;                   \
		(record)->mode = (event)->mode;                     \
		(record)->inode = (event)->inode;                   \
		(record)->generation = (event)->generation;         \
		(record)->parent_inode = (event)->parent_inode;     \
		(record)->parent_generation = (event)->parent_generation; \
		(record)->process = (event)->process;               \
		(record)->name_len = (length);                      \
	} while (0)

static __noinline int emit_file(struct file_event *event)
{
	struct file_record_short *brief;
	struct file_record *full;
	struct loss_counts *lost;
	__u32 length;

	if (!event)
		return 0;
	length = event->name_len;
	if (length <= SHORT_NAME) {
		brief = bpf_ringbuf_reserve(&events, sizeof(*brief), 0);
		if (!brief)
			goto full;
		FILL_FILE_RECORD(brief, event, length);
		bpf_probe_read_kernel(brief->name, length, event->name);
		bpf_ringbuf_submit(brief, wake_flags());
		return 0;
	}
	if (length > NAME_MAX)
		length = NAME_MAX;
	full = bpf_ringbuf_reserve(&events, sizeof(*full), 0);
	if (!full)
		goto full;
	FILL_FILE_RECORD(full, event, length);
	bpf_probe_read_kernel(full->name, length, event->name);
	bpf_ringbuf_submit(full, wake_flags());
	return 0;
full:
	lost = lost_records();
	if (lost)
		__sync_fetch_and_add(&lost->file_records, 1);
	return 0;
}

/* parent_of finds the ledger's page of the directory that a dentry is in. */
static __always_inline struct file_entry *parent_of(const bool typed, struct dentry *dentry, struct file_key *key)
{
	return find(upper_inode(READ(typed, READ(typed, dentry, d_parent), d_inode)), key);
}

/* root_of finds that of the root of the layer that a dentry is in. */
static __always_inline struct file_entry *root_of(const bool typed, struct dentry *dentry, struct file_key *key)
{
	struct dentry *root = READ(typed, READ(typed, dentry, d_sb), s_root);

	return find(upper_inode(READ(typed, root, d_inode)), key);
}

/* named_in sends where a file of the ledger can be found from now on. */
static __always_inline void named_in(const bool typed, struct file_entry *parent, struct file_key *parent_key,
				     __u32 op, struct file_entry *file, struct file_key *key,
				     struct dentry *dentry, struct process_id *process)
{
	struct file_event event = {};

	event.op = op;
	event.layer = file->layer;
	event.mode = file->mode;
	event.inode = key->inode;
	event.generation = file->generation;
	event.parent_inode = parent_key->inode;
	event.parent_generation = parent->generation;
	event.process = *process;
	if (dentry)
		name_of(typed, &event, dentry);
	emit_file(&event);
}

static __always_inline void named(const bool typed, __u32 op, struct file_entry *file, struct file_key *key,
				  struct dentry *dentry, struct process_id *process)
{
	struct file_key parent_key = {};
	struct file_entry *parent = parent_of(typed, dentry, &parent_key);

	if (parent)
		named_in(typed, parent, &parent_key, op, file, key, dentry, process);
}

static __always_inline void untracked(__u32 layer_id)
{
	struct layer *layer = layer_of(layer_id);

	if (layer)
		__sync_fetch_and_add(&layer->untracked, 1);
}

/* strayed has the baseline scan of a directory's layer look again. */
static __always_inline void strayed(struct file_entry *dir)
{
	struct layer *layer = layer_of(dir->layer);

	if (layer)
		__sync_fetch_and_add(&layer->strays, 1);
}

/* Fresh page of an inode that joins the layer of its parent directory, if that is known. */
static __always_inline void new_entry(struct file_entry *entry, struct file_entry *parent, __u32 mode,
				      __u32 state)
{
	__builtin_memset(entry, 0, sizeof(*entry));
	/* Inode numbers are reused; the time at which one joins tells its lives apart. */
	entry->generation = bpf_ktime_get_ns() | BORN;
	if (parent) {
		entry->layer = parent->layer;
		entry->disk_method = parent->disk_method;
		entry->plain = parent->plain;
	}
	entry->mode = mode;
	entry->state = state;
	entry->settled = 1;
}

/*
 * published: a page has become part of the layer; books all that it holds. inode may
 * be NULL if the file system tells its changes.
 */
static __always_inline void published(struct file_entry *file, struct file_key *key, struct inode *inode,
				      __s64 size, struct process_id *process, __u32 cause)
{
	struct change change = { .causes = cause };
	bool directory = (file->mode & S_IFMT) == S_IFDIR;

	if (!directory) {
		file->size = size;
		change.size = size;
	}
	written_by(file, key, process);
	file->state = STATE_LIVE;
	change.disk = exchange(&file->aside, 0);
	__sync_fetch_and_add(&file->disk, change.disk);
	/* Who has put bytes aside in this moment may not have seen that it is live. */
	if (inode && file->disk_method != DISK_QUOTA)
		change.disk += disk_difference(file, inode);
	__sync_fetch_and_add(&file->other_events, 1);
	if (cause == CAUSE_COPY_UP)
		change.copy_up = directory ? change.disk : size;
	book(file, key, process, &change);
}
