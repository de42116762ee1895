/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Copies of image files: pending until they have a name in the layer. */
#pragma once

/*
 * Between entry and exit of ovl_copy_up_one the thread fills an inode in the
 * work directory. The quota hooks meet it there first and open a pending page,
 * which is published as soon as the inode has a name in the layer, just before
 * others can reach it.
 */
ENTRY_PROGRAM("ovl_copy_up_one", copy_up_entry, struct dentry *parent, struct dentry *dentry, int flags)
{
	struct file_key key = {};
	struct thread *thread;

	/* The parent may join the ledger while this goes on: ask the layer's root. */
	if (!root_of(typed, dentry, &key))
		return 0;
	thread = this_thread(true);
	if (!thread)
		return 0;
	/* It is in one already if the end of that was missed: they do not nest. */
	if (!thread->copied_up)
		__sync_fetch_and_add(&copying_up, 1);
	thread->copied_up = (__u64)dentry;
	return 0;
}

EXIT_PROGRAM("ovl_copy_up_one", copy_up_exit, 1, ALL_CALLS, 3, struct dentry *parent, struct dentry *dentry, int flags, int ret)
{
	struct thread *thread = copying_up > 0 ? this_thread(false) : NULL;
	struct file_key key = {};
	struct file_entry *file;
	struct inode *inode;

	if (!thread || !thread->copied_up)
		return 0;
	thread->copied_up = 0;
	__sync_fetch_and_add(&copying_up, -1);
	thread_left(thread);
	/* With metacopy=on the data may have come later than the file. */
	inode = upper_inode(READ(typed, dentry, d_inode));
	file = find(inode, &key);
	if (file)
		disk_read(file, &key, inode);
	return 0;
}

/*
 * joined: an inode that is copied up has got a name in the layer. It has no page yet
 * if nothing was allocated for it (an empty file, a short symlink), or that was
 * before tracing began; overlayfs has synced its data since. Or the file system does
 * not tell of allocations.
 */
static __always_inline void joined(const bool typed, struct inode *inode, struct dentry *dentry,
				   struct file_entry *parent, struct file_key *parent_key)
{
	struct file_key key = {};
	struct file_entry *file = find_as(typed, inode, &key), fresh;
	struct process_id process;

	if (!file) {
		new_entry(&fresh, parent, 0, STATE_PENDING);
		fresh.aside = allocated_bytes(inode, fresh.disk_method);
		if (bpf_map_update_elem(&files, &key, &fresh, BPF_NOEXIST)) {
			untracked(fresh.layer);
			return;
		}
		file = bpf_map_lookup_elem(&files, &key);
		if (!file)
			return;
	}
	current_process(&process);
	announce_process(&process);
	if (file->state == STATE_LIVE) {
		/* With index=on: the image's file has several names, and another was first. */
		named_in(false, parent, parent_key, FILE_LINKED, file, &key, dentry, &process);
		return;
	}
	file->mode = READ(typed, inode, i_mode);
	file->layer = parent->layer;
	file->disk_method = parent->disk_method;
	named_in(false, parent, parent_key, FILE_COPIED_UP, file, &key, dentry, &process);
	published(file, &key, inode, READ(typed, inode, i_size), &process, CAUSE_COPY_UP);
}

/*
 * unforeseen: a copy joins a directory that the baseline scan has yet to enter, and
 * will be taken for what was there before. A scan that has entered it this moment took
 * the copy for growth, and has to look again.
 */
static __always_inline void unforeseen(struct inode *inode, struct inode *dir)
{
	struct file_key key = {};
	struct file_entry *file = find(inode, &key);

	if (!file || file->state != STATE_PENDING)
		return;
	bpf_map_delete_elem(&files, &key);
	file = find(dir, &key);
	if (file)
		strayed(file);
}

/*
 * vfs_link(old, [idmap,] dir, new, …) ends the copy-up of a regular file. With index=on
 * the copy of an image file with several names gets one in the index first, beside the
 * layer, and those in the layer when each is used.
 */
EXIT_PROGRAM("vfs_link", link_exit, 26, OF_OLD_NAME, (idmapped ? 5 : 4))
{
	struct inode *inode = READ(typed, (struct dentry *)ctx[0], d_inode);
	struct inode *dir = (void *)argument(ctx, 2);
	struct dentry *subject = being_copied_up();
	struct file_key key = {}, parent_key = {};
	struct file_entry *parent;
	int ret = argument(ctx, 5);

	if (ret)
		return 0;
	parent = find_as(typed, dir, &parent_key);
	if (!subject) {
		/*
		 * The first name of an inode that is not known ends a copy-up that began
		 * before tracing did; the upper dentry tells the name.
		 */
		if (parent && READ(typed, inode, i_nlink) == 1 && !find_as(typed, inode, &key))
			joined(typed, inode, (void *)argument(ctx, 3), parent, &parent_key);
	} else if (parent) {
		joined(typed, inode, subject, parent, &parent_key);
	} else if (dir == upper_inode(BPF_CORE_READ(subject, d_parent, d_inode))) {
		unforeseen(inode, dir);
	}
	return 0;
}

/* All others have been moved from the work directory to where they belong. */
ENTRY_PROGRAM("ovl_inode_update", copied_up_entry, struct inode *overlay, struct dentry *upper)
{
	struct inode *inode = READ(typed, upper, d_inode);
	struct inode *dir = READ(typed, READ(typed, upper, d_parent), d_inode);
	struct dentry *subject = being_copied_up();
	struct file_key key = {}, parent_key = {};
	struct file_entry *file = find_as(typed, inode, &key), *parent;

	if (!inode || (file && file->state != STATE_PENDING))
		return 0;
	parent = find_as(typed, dir, &parent_key);
	if (parent)
		joined(typed, inode, subject ? subject : upper, parent, &parent_key);
	else if (subject && dir == upper_inode(BPF_CORE_READ(subject, d_parent, d_inode)))
		unforeseen(inode, dir);
	return 0;
}
