/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What overlayfs keeps beside the files that it shows: its index, and whiteouts with blocks. */
#pragma once

/* Right before struct inode in struct ovl_inode, since 4.13; checked as upper_dentry is. */
static __always_inline bool indexed(struct inode *overlay)
{
	unsigned long flags = 0;

	bpf_probe_read_kernel(&flags, sizeof(flags), (void *)overlay - sizeof(flags));
	return flags & OVL_INDEX;
}

/*
 * in_index_only tells whether the one name that a file has left is that in the index
 * (index=on): other names of the image's file lead to it, and none that is in the layer.
 */
static __always_inline bool in_index_only(struct inode *overlay, struct inode *upper)
{
	return (READ(false, upper, i_mode) & S_IFMT) != S_IFDIR && READ(false, upper, i_nlink) == 1 &&
	       indexed(overlay);
}

/* shelve: such a file takes nothing from the layer until it gets a name there again. */
static __always_inline void shelve(struct file_entry *file, struct change *change)
{
	__s64 moved;

	file->state = STATE_SHELVED;
	moved = exchange(&file->disk, 0);
	if (moved == DISK_UNKNOWN)
		moved = 0; /* the scan was about to settle it: nothing of it is counted */
	__sync_fetch_and_add(&file->aside, moved);
	__sync_fetch_and_add(&file->other_events, 1);
	change->disk = -moved;
	if (file->size != SIZE_UNKNOWN)
		change->size = -file->size;
}

/*
 * left_by_rename is what a thread renames while the file system makes the whiteout
 * that stays behind; NULL for any other inode. That one is made in the layer itself,
 * and inherits the default ACL of its directory, which may take a block (ext4).
 * overlayfs makes all others beside the layer, where they inherit nothing.
 */
static __always_inline struct rename *left_by_rename(struct inode *inode)
{
	struct thread *thread;

	if (renaming <= 0 || (READ(false, inode, i_mode) & S_IFMT) != S_IFCHR)
		return NULL;
	thread = this_thread(false);
	return thread && thread->rename.old ? &thread->rename : NULL;
}

/* left: the rename is done, and its whiteout in the place of what was renamed. */
static __always_inline void left(struct dentry *old, struct file_key *whiteout)
{
	struct file_key key = *whiteout, parent_key = {};
	struct file_entry *file = bpf_map_lookup_elem(&files, &key), *parent = parent_of(false, old, &parent_key);
	struct process_id process;

	if (!file || !parent || file->state != STATE_PENDING)
		return;
	current_process(&process);
	named_in(false, parent, &parent_key, FILE_WHITEOUT, file, &key, old, &process);
	published(file, &key, NULL, 0, &process, CAUSE_RENAME);
}
