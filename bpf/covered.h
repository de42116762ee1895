/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Writes of watched containers to files outside of their layers. */
#pragma once

/* Sizes of files outside of the layers that watched containers have written to. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct file_key);
	__type(value, __s64);
} covered_sizes SEC(".maps");

static __always_inline int announce_covered(struct file *file, struct file_key *key)
{
	struct covered_record *record = bpf_ringbuf_reserve(&events, sizeof(*record), 0);

	if (!record) {
		struct loss_counts *lost = lost_records();

		if (lost)
			__sync_fetch_and_add(&lost->file_records, 1);
		return 0;
	}
	record->kind = RECORD_COVERED;
	record->file = *key;
	record->length = file_path(file, record->path);
	bpf_ringbuf_submit(record, wake_flags());
	return 0;
}

/*
 * covered_layer tells for which layer a write to a file is to be reported as
 * outside of it; 0 for none: not a file, not a watched container, or a file of
 * the layer, of which the ledger keeps account.
 */
static __always_inline __u32 covered_layer(struct file *file, struct file_key *key)
{
	struct inode *inode = BPF_CORE_READ(file, f_inode);
	struct super_block *sb = BPF_CORE_READ(inode, i_sb);
	struct file_key root = {};
	struct file_entry *page;
	struct dentry *dentry;
	__u32 layer;

	if ((BPF_CORE_READ(inode, i_mode) & S_IFMT) != S_IFREG)
		return 0;
	layer = cgroup_layer();
	if (!layer)
		return 0;
	if (BPF_CORE_READ(sb, s_magic) == OVERLAYFS_SUPER_MAGIC) {
		dentry = BPF_CORE_READ(sb, s_root);
		if (find(upper_inode(BPF_CORE_READ(dentry, d_inode)), &root))
			return 0;
	}
	page = find(inode, &root);
	if (page && page->plain)
		return 0;
	key->device = BPF_CORE_READ(sb, s_dev);
	key->inode = BPF_CORE_READ(inode, i_ino);
	return layer;
}

static __always_inline void covered_before(struct file *file)
{
	struct file_key key = {};
	struct inode *inode;
	__s64 size;

	if (!covered_layer(file, &key))
		return;
	inode = BPF_CORE_READ(file, f_inode);
	size = BPF_CORE_READ(inode, i_size);
	if (bpf_map_update_elem(&covered_sizes, &key, &size, BPF_NOEXIST) == 0)
		announce_covered(file, &key);
}

static __always_inline void covered_after(struct file *file, long bytes)
{
	struct counter_key counter_key = {};
	struct file_key key = {};
	struct counter *counter;
	struct inode *inode;
	__s64 *size, now;
	__u32 zero = 0;
	void *table;

	if (bytes <= 0)
		return;
	counter_key.layer = covered_layer(file, &key);
	if (!counter_key.layer)
		return;
	counter_key.device = key.device;
	counter_key.inode = key.inode;
	current_process(&counter_key.process);
	table = bpf_map_lookup_elem(&counters, &zero);
	counter = table ? other_counter(table, &counter_key) : NULL;
	if (!counter) {
		struct layer *layer = layer_of(counter_key.layer);

		if (layer)
			__sync_fetch_and_add(&layer->covered_lost, 1);
		return;
	}
	announce(counter, &counter_key.process);
	inode = BPF_CORE_READ(file, f_inode);
	now = BPF_CORE_READ(inode, i_size);
	size = bpf_map_lookup_elem(&covered_sizes, &key);
	if (size && *size != now)
		__sync_fetch_and_add(&counter->size, now - exchange(size, now));
	counter->file_size = now;
	counter->causes = CAUSE_WRITE;
	__sync_fetch_and_add(&counter->written, bytes);
	__sync_fetch_and_add(&counter->writes, 1);
}

ENTRY_PROGRAM("vfs_write", covered_write_entry, struct file *file)
{
	covered_before(file);
	return 0;
}

EXIT_PROGRAM("vfs_write", covered_write_exit, 19, ALL_CALLS, 4, struct file *file, void *buffer, unsigned long count, void *pos,
	     long ret)
{
	covered_after(file, ret);
	return 0;
}

ENTRY_PROGRAM("vfs_writev", covered_writev_entry, struct file *file)
{
	covered_before(file);
	return 0;
}

EXIT_PROGRAM("vfs_writev", covered_writev_exit, 20, ALL_CALLS, 5, struct file *file, void *vec, unsigned long count, void *pos,
	     int flags, long ret)
{
	covered_after(file, ret);
	return 0;
}
