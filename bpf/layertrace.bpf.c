/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Exact accounting of overlayfs upper directories.
 *
 * A ledger (files) has a page for every inode of the watched layers. Each hook
 * compares the inode with its page, books the difference on the process at work
 * and turns the page: differences telescope, so nested, doubled or missed hooks
 * cancel out. Size is read where overlayfs holds its inode's lock; allocated
 * bytes follow the quota hooks, which every change of i_blocks passes.
 *
 * An inode belongs to a layer because its parent directory does: the tracer
 * enters the layer's inodes once (track, settle), and everything created or
 * copied up below them follows. All other inodes leave at the first lookup.
 */
#include "kernel.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#include "event.h"
#include "kernel_compat.h"
#include "thread.h"
#include "maps.h"
#include "program.h"
#include "cgroup.h"
#include "actor.h"
#include "ledger.h"
#include "tree.h"
#include "beside.h"
#include "copy_up.h"
#include "disk.h"
#include "covered.h"
#include "baseline.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* ---- creation --------------------------------------------------------- */

/*
 * appeared: an inode, or a further name of one (hardlink), has come into a directory of
 * a layer. reserved are bytes that are not in i_blocks yet: a new inode has none.
 */
static __always_inline void appeared(const bool typed, struct dentry *dentry, struct inode *inode,
				   struct file_entry *parent, struct file_key *parent_key, bool hardlink, __s64 reserved)
{
	struct file_entry *file, fresh;
	struct process_id process;
	struct file_key key = {};
	__u32 nlink;
	__s64 moved;

	current_process(&process);
	nlink = READ(typed, inode, i_nlink);
	file = hardlink ? find_as(typed, inode, &key) : NULL;
	if (file) {
		if (file->state == STATE_DELETED && nlink) {
			/* An O_TMPFILE has got its first name. */
			moved = file->aside;
			aside_changed(file, -moved);
			published(file, &key, inode, file->size, &process, CAUSE_CREATE);
		} else {
			struct change change = { .causes = CAUSE_CREATE };

			book(file, &key, &process, &change);
		}
		named_in(typed, parent, parent_key, FILE_LINKED, file, &key, dentry, &process);
		return;
	}

	new_entry(&fresh, parent, READ(typed, inode, i_mode),
		  nlink ? STATE_PENDING : STATE_DELETED);
	fresh.aside = allocated_as(typed, inode, fresh.disk_method) + reserved;
	key.device = parent_key->device;
	key.inode = READ(typed, inode, i_ino);
	/*
	 * A page may be there already if the tracer's scan found the new name
	 * first: then it is part of the baseline.
	 */
	if (bpf_map_update_elem(&files, &key, &fresh, BPF_NOEXIST)) {
		if (!bpf_map_lookup_elem(&files, &key))
			untracked(fresh.layer);
		return;
	}
	file = bpf_map_lookup_elem(&files, &key);
	if (!file)
		return;
	/* The dentry of an O_TMPFILE has a name that is none. */
	named_in(typed, parent, parent_key, FILE_CREATED, file, &key, nlink ? dentry : NULL, &process);
	if (nlink) {
		published(file, &key, inode, READ(typed, inode, i_size), &process, CAUSE_CREATE);
		return;
	}
	forget(key.inode);
	aside_changed(file, fresh.aside);
	announce_process(&process); /* as the first counter of a process does */
}

/*
 * ovl_instantiate(dentry, inode, newdentry, hardlink[, tmpfile since 6.12]) ties
 * a new upper inode, or a further name of one, to an overlay dentry. Its parent
 * directory is locked and nobody else can have found the inode yet.
 */
ENTRY_PROGRAM("ovl_instantiate", instantiate_entry, struct dentry *dentry, struct inode *overlay,
	     struct dentry *upper, bool hardlink)
{
	struct inode *inode = READ(typed, upper, d_inode);
	struct inode *dir = READ(typed, READ(typed, upper, d_parent), d_inode);
	struct file_key parent_key = {};
	struct file_entry *parent = find_as(typed, dir, &parent_key);

	if (parent && inode)
		appeared(typed, dentry, inode, parent, &parent_key, hardlink, 0);
	return 0;
}

/* ---- names ------------------------------------------------------------ */

/*
 * stray notes that something without a page was moved to where pages are: from a
 * directory that the baseline scan has yet to enter into one that it has left.
 */
static __always_inline void stray(const bool typed, struct dentry *dentry)
{
	struct file_key key = {};
	struct file_entry *parent = parent_of(typed, dentry, &key);

	if (parent)
		strayed(parent);
}

/* ovl_rename([idmap,] olddir, old, newdir, new, flags) */
ENTRY_PROGRAM("ovl_rename", rename_entry)
{
	struct thread *thread = this_thread(true);

	if (!thread)
		return 0;
	if (!thread->rename.old)
		__sync_fetch_and_add(&renaming, 1);
	thread->rename.old = argument(ctx, 2);
	thread->rename.whiteout.inode = 0;
	return 0;
}

/* Of several names of a file, just one changes. */
static __always_inline bool has_others(const bool typed, struct file_entry *file, struct inode *overlay)
{
	return (file->mode & S_IFMT) != S_IFDIR && READ(typed, overlay, i_nlink) > 1;
}

static __always_inline void moved(const bool typed, struct dentry *old, struct dentry *new, unsigned int flags)
{
	struct inode *source = READ(typed, old, d_inode), *target = READ(typed, new, d_inode);
	struct change change = { .causes = CAUSE_RENAME };
	struct file_key key = {}, other_key = {};
	struct file_entry *file, *other;
	struct process_id process;
	bool several = false;

	file = find(upper_inode(source), &key);
	if (!file) {
		stray(typed, new);
		return;
	}
	current_process(&process);
	other = find(upper_inode(target), &other_key);
	if (other && flags & RENAME_EXCHANGE) {
		several = has_others(typed, other, target);
		if (several)
			named(typed, FILE_UNLINKED, other, &other_key, new, &process);
	}
	if (has_others(typed, file, source)) {
		named(typed, FILE_LINKED, file, &key, new, &process);
		named(typed, FILE_UNLINKED, file, &key, old, &process);
	} else {
		named(typed, FILE_RENAMED, file, &key, new, &process);
	}
	book(file, &key, &process, &change);
	if (!other)
		return;
	if (flags & RENAME_EXCHANGE) {
		named(typed, several ? FILE_LINKED : FILE_RENAMED, other, &other_key, old, &process);
	} else {
		/* It may have other names; without any, unlinked has booked it. */
		if (other->state != STATE_LIVE || !in_index_only(target, upper_inode(target)))
			return;
		change.causes = CAUSE_DELETE;
		shelve(other, &change);
	}
	book(other, &other_key, &process, &change);
}

/* The VFS moves the dentries only after it has returned: `new` still tells the new place. */
EXIT_PROGRAM("ovl_rename", rename_exit, 2, ALL_CALLS, 6)
{
	struct dentry *old = (void *)argument(ctx, 2);
	struct dentry *new = (void *)argument(ctx, 4);
	unsigned int flags = argument(ctx, 5);
	struct thread *thread = this_thread(false);
	struct file_key whiteout = {};
	int ret = ctx[6];

	if (thread && thread->rename.old) {
		whiteout = thread->rename.whiteout;
		thread->rename.old = 0;
		__sync_fetch_and_add(&renaming, -1);
		thread_left(thread);
	}
	/* Before 5.12 it has one argument less, and there only probes can reach it. */
	if (ret)
		return 0;
	moved(typed, old, new, flags);
	if (whiteout.inode)
		left(old, &whiteout);
	return 0;
}

/*
 * ovl_do_remove takes a name out of the layer. Whether the image has something
 * of that name, so that a whiteout is left, shows in ovl_cleanup_and_whiteout
 * being called on the way.
 */
ENTRY_PROGRAM("ovl_do_remove", remove_entry)
{
	struct thread *thread = this_thread(true);

	if (thread)
		thread->within = (thread->within & ~LEAVES_WHITEOUT) | WITHIN_REMOVE;
	return 0;
}

ENTRY_PROGRAM("ovl_cleanup_and_whiteout", whiteout_entry)
{
	struct thread *thread = this_thread(false);

	if (thread && thread->within & WITHIN_REMOVE)
		thread->within |= LEAVES_WHITEOUT;
	return 0;
}

EXIT_PROGRAM("ovl_do_remove", remove_exit, 3, ALL_CALLS, 2, struct dentry *dentry, int is_dir, int ret)
{
	struct change change = { .causes = CAUSE_DELETE };
	struct inode *overlay = READ(typed, dentry, d_inode);
	struct thread *thread = this_thread(false);
	struct file_key key = {}, parent_key = {};
	struct file_event event = {};
	struct process_id process;
	struct file_entry *file, *parent;
	bool whiteout = false;

	if (thread) {
		whiteout = thread->within & LEAVES_WHITEOUT;
		thread->within &= ~(WITHIN_REMOVE | LEAVES_WHITEOUT);
		thread_left(thread);
	}
	if (ret)
		return 0;
	parent = parent_of(typed, dentry, &parent_key);
	if (!parent)
		return 0;
	current_process(&process);
	file = find(upper_inode(overlay), &key);
	if (file) {
		/* It has other names; without any, unlinked has booked it. */
		if (file->state == STATE_LIVE) {
			if (in_index_only(overlay, upper_inode(overlay)))
				shelve(file, &change);
			book(file, &key, &process, &change);
		}
		named_in(typed, parent, &parent_key, FILE_UNLINKED, file, &key, dentry, &process);
	}
	if (!whiteout)
		return 0;
	announce_process(&process);
	event.op = FILE_WHITEOUT;
	event.layer = parent->layer;
	event.mode = READ(typed, overlay, i_mode);
	event.parent_inode = parent_key.inode;
	event.parent_generation = parent->generation;
	event.process = process;
	name_of(typed, &event, dentry);
	emit_file(&event);
	return 0;
}

/* ---- the last name, the last reference -------------------------------- */

static __always_inline void unlinked(const bool typed, struct inode *inode)
{
	struct change change = { .causes = CAUSE_DELETE };
	struct process_id process;
	struct file_key key;
	struct file_entry *file = find_as(typed, inode, &key);
	struct layer *layer;
	__s64 moved;

	if (!file || READ(typed, inode, i_nlink))
		return;
	if (file->state == STATE_SHELVED) {
		file->state = STATE_DELETED;
		aside_changed(file, file->aside);
	}
	if (file->state != STATE_LIVE)
		return;
	layer = layer_of(file->layer);
	/*
	 * Without a mount the layer is not in use: it is being removed by its
	 * runtime, which is the layer's end and not a change of it.
	 */
	if (!layer || layer->mounts <= 0)
		return;
	disk_read(file, &key, inode);
	file->state = STATE_DELETED;
	moved = exchange(&file->disk, 0);
	__sync_fetch_and_add(&file->aside, moved);
	__sync_fetch_and_add(&layer->open_deleted, moved);
	__sync_fetch_and_add(&file->other_events, 1);
	change.disk = -moved;
	if ((file->mode & S_IFMT) != S_IFDIR && file->size != SIZE_UNKNOWN)
		change.size = -file->size;
	actor(&process, file);
	book(file, &key, &process, &change);
	disk_read(file, &key, inode);
}

/* Every file system's unlink, rename and rmdir end in one of these two. */
EXIT_PROGRAM("drop_nlink", drop_nlink_exit, 4, OF_INODE(0), NO_RESULT, struct inode *inode)
{
	unlinked(typed, inode);
	return 0;
}

EXIT_PROGRAM("clear_nlink", clear_nlink_exit, 5, OF_INODE(0), NO_RESULT, struct inode *inode)
{
	unlinked(typed, inode);
	return 0;
}

/*
 * evict frees an unlinked inode's blocks and then its number. The page goes
 * first, so that an inode that gets the number next never meets it.
 */
ENTRY_PROGRAM("evict", evict_entry, struct inode *inode)
{
	struct file_event event = {};
	struct file_key key;
	struct file_entry *file;

	if (READ(typed, inode, i_nlink))
		return 0;
	file = find_as(typed, inode, &key);
	if (!file)
		return 0;
	event.op = FILE_GONE;
	event.layer = file->layer;
	event.inode = key.inode;
	event.generation = file->generation;
	if (file->state == STATE_DELETED)
		aside_changed(file, -file->aside);
	bool announce = file->state != STATE_PENDING;
	bpf_map_delete_elem(&files, &key);
	forget(key.inode);
	if (announce)
		emit_file(&event);
	return 0;
}

/* ---- growth: sizes ---------------------------------------------------- */

static __always_inline void written(const bool typed, struct file *to, __s64 bytes, __u32 cause)
{
	struct inode *inode = READ(typed, to, f_inode);
	struct change change = { .causes = cause };
	struct file_key key;
	struct file_entry *file = find_as(typed, inode, &key);
	__s64 size;

	if (!file || file->plain) /* plain.h has programs of its own */
		return;
	/* What a copy is filled with, where the file system tells of allocations. */
	if (file->state == STATE_PENDING && file->disk_method == DISK_QUOTA)
		return;
	disk_read(file, &key, inode);
	size = READ(typed, inode, i_size);
	if (being_copied_up()) {
		/* With metacopy the data follow when the file is in the layer already. */
		change.causes = CAUSE_COPY_UP;
	} else if (bytes > 0) {
		if (cause == CAUSE_WRITE && file->size == size && file->state != STATE_PENDING &&
		    !in_kernel_thread() && counted_at_once(file, &key, bytes))
			return;
		change.written = bytes;
		change.writes = 1;
	} else if (bytes != -EIOCBQUEUED && file->size == size) {
		return;
	}
	size_changed(typed, file, &key, inode, &change);
}

/* written_by_call is the same for the functions that most writes pass. */
static __always_inline void written_by_call(const bool typed, struct file *to, __s64 bytes)
{
	if (bytes > 0 && copying_up <= 0 && counted_again(typed, READ(typed, to, f_inode), bytes))
		return;
	written(typed, to, bytes, CAUSE_WRITE);
}

/* Writes of overlayfs to the real file, since 6.8 (upstream 5f034d34737e). */
EXIT_PROGRAM("backing_file_write_iter", backing_write_exit, 6, OF_FILE(0), 5, struct file *file, void *iter, struct kiocb *iocb, int flags,
	     void *context, long ret)
{
	written_by_call(typed, file, ret);
	return 0;
}

EXIT_PROGRAM("backing_file_splice_write", backing_splice_exit, 7, OF_FILE(1), 6, void *pipe, struct file *file, void *pos, unsigned long len,
	     unsigned int flags, void *context, long ret)
{
	written(typed, file, ret, CAUSE_WRITE);
	return 0;
}

/* And before 6.8. splice and sendfile end in vfs_iter_write there. */
EXIT_PROGRAM("vfs_iter_write", iter_write_exit, 8, OF_FILE(0), 4, struct file *file, void *iter, void *pos, int flags, long ret)
{
	if (is_within(copying, WITHIN_COPY))
		ret = 0; /* copy_range_exit counts it */
	written_by_call(typed, file, ret);
	return 0;
}

EXIT_PROGRAM("vfs_iocb_iter_write", iocb_write_exit, 9, OF_FILE(0), 3, struct file *file, struct kiocb *iocb, void *iter, long ret)
{
	written(typed, file, ret, CAUSE_WRITE);
	return 0;
}

/* An asynchronous write begins: it may end in another context, even before this call does. */
ENTRY_PROGRAM("vfs_iocb_iter_write", iocb_queue_entry, struct file *file, struct kiocb *iocb)
{
	struct process_id process;
	struct file_key key;
	__u64 which = (__u64)iocb;

	if (!find_as(typed, READ(typed, file, f_inode), &key))
		return 0;
	current_process(&process);
	announce_process(&process);
	bpf_map_update_elem(&queued, &which, &process, BPF_ANY);
	return 0;
}

/*
 * Asynchronous writes: what was written is known only now, on behalf of the process
 * that began it.
 */
static __always_inline void completed(struct kiocb *iocb, long bytes)
{
	struct change change = { .causes = CAUSE_WRITE };
	struct inode *inode = READ(false, READ(false, iocb, ki_filp), f_inode);
	struct process_id process, *beginner;
	__u64 which = (__u64)iocb;
	struct file_key key;
	struct file_entry *file;

	if (bytes <= 0 || !(READ(false, iocb, ki_flags) & IOCB_WRITE))
		return;
	file = find(inode, &key);
	if (!file)
		return;
	/* Whoever is at work here may just have been interrupted. */
	process = file->writer;
	beginner = bpf_map_lookup_elem(&queued, &which);
	if (beginner) {
		process = *beginner;
		bpf_map_delete_elem(&queued, &which);
	}
	change.written = bytes;
	change.writes = 1;
	/* xfs and btrfs move the size only now, ext4 has when the call returned. */
	size_difference(false, file, inode, &change);
	forget(key.inode);
	book(file, &key, &process, &change);
}

ENTRY_PROGRAM("backing_aio_rw_complete", backing_aio_entry, struct kiocb *iocb, long res)
{
	completed(iocb, res);
	return 0;
}

ENTRY_PROGRAM("ovl_aio_rw_complete", ovl_aio_entry, struct kiocb *iocb, long res)
{
	completed(iocb, res);
	return 0;
}

/*
 * rearranged: a call that writes nothing may have changed size and disk use, also
 * one that failed in the end.
 */
static __always_inline void rearranged(struct inode *inode, long result, __u32 cause)
{
	struct change change = { .causes = cause };
	struct file_key key;
	struct file_entry *file = find(inode, &key);
	__s64 size;

	if (!file)
		return;
	disk_read(file, &key, inode);
	size = READ(false, inode, i_size);
	if (result >= 0 || file->size != size)
		size_changed(false, file, &key, inode, &change);
}

EXIT_PROGRAM("vfs_fallocate", fallocate_exit, 10, OF_FILE(0), 4, struct file *file, int mode, __s64 offset, __s64 len, long ret)
{
	rearranged(READ(typed, file, f_inode), ret, CAUSE_ALLOCATE);
	return 0;
}

/*
 * Before 6.8 copy_file_range passes vfs_iter_write on its way to a file system that
 * cannot share extents, and does not to one that can: what it has written is counted
 * at its end, and not in between.
 */
static __always_inline void copy_begins(struct file *out)
{
	struct file_key key = {};

	if (find(READ(false, out, f_inode), &key))
		goes_into(&copying, WITHIN_COPY);
}

ENTRY_PROGRAM("vfs_copy_file_range", copy_range_entry, struct file *in, __s64 pos_in, struct file *out)
{
	copy_begins(out);
	return 0;
}

EXIT_PROGRAM("vfs_copy_file_range", copy_range_exit, 11, OF_FILE(2), 6, struct file *in, __s64 pos_in, struct file *out, __s64 pos_out,
	     unsigned long len, unsigned int flags, long ret)
{
	/* Around the copy between files of the layer is that between files of the overlay. */
	comes_from(&copying, WITHIN_COPY);
	written(typed, out, ret, CAUSE_WRITE);
	return 0;
}

EXIT_PROGRAM("vfs_clone_file_range", clone_range_exit, 12, OF_FILE(2), 6, struct file *in, __s64 pos_in, struct file *out, __s64 pos_out,
	     __s64 len, unsigned int flags, __s64 ret)
{
	rearranged(READ(typed, out, f_inode), ret, CAUSE_CLONE);
	return 0;
}

/* notify_change([idmap,] dentry, attributes, …) */
EXIT_PROGRAM("notify_change", notify_change_exit, 13, OF_DENTRY, NO_RESULT)
{
	struct dentry *dentry = (void *)argument(ctx, 1);
	struct iattr *attr = (void *)argument(ctx, 2);
	struct change change = {};
	struct inode *inode = READ(typed, dentry, d_inode);
	struct file_key key;
	struct file_entry *file = find_as(typed, inode, &key);
	__s64 size;

	if (!file || file->state == STATE_PENDING)
		return 0;
	disk_read(file, &key, inode);
	size = READ(typed, inode, i_size);
	if (READ(typed, attr, ia_valid) & ATTR_SIZE)
		change.causes = CAUSE_TRUNCATE;
	else if (file->size == size || (file->mode & S_IFMT) == S_IFDIR)
		return 0;
	size_changed(typed, file, &key, inode, &change);
	return 0;
}

/*
 * Extended attributes may take a block of their own, which the quota hooks book:
 * this tells why. ([idmap,] dentry, …)
 */
static __always_inline void attributes_changed(const bool typed, struct dentry *dentry)
{
	struct change change = { .causes = CAUSE_METADATA };
	struct file_key key;
	struct file_entry *file = find_as(typed, READ(typed, dentry, d_inode), &key);
	struct process_id process;

	if (!file || file->state == STATE_PENDING)
		return;
	actor(&process, file);
	book(file, &key, &process, &change);
}

EXIT_PROGRAM("vfs_setxattr", setxattr_exit, 14, OF_DENTRY, NO_RESULT)
{
	attributes_changed(typed, (void *)argument(ctx, 1));
	return 0;
}

EXIT_PROGRAM("vfs_removexattr", removexattr_exit, 15, OF_DENTRY, NO_RESULT)
{
	attributes_changed(typed, (void *)argument(ctx, 1));
	return 0;
}

/* Where ACLs have entry points of their own (seen from 6.5 on). */
EXIT_PROGRAM("vfs_set_acl", set_acl_exit, 16, OF_DENTRY, NO_RESULT)
{
	attributes_changed(typed, (void *)argument(ctx, 1));
	return 0;
}

EXIT_PROGRAM("vfs_remove_acl", remove_acl_exit, 24, OF_DENTRY, NO_RESULT)
{
	attributes_changed(typed, (void *)argument(ctx, 1));
	return 0;
}

/* A first store to a page of a shared mapping. */
EXIT_PROGRAM("do_page_mkwrite", page_mkwrite_exit, 22, ALL_CALLS, NO_RESULT, struct vm_fault *fault)
{
	struct change change = { .causes = CAUSE_MMAP };
	struct vm_area_struct *vma = READ(typed, fault, vma);
	struct inode *inode = READ(typed, READ(typed, vma, vm_file), f_inode);
	struct process_id process;
	struct file_key key;
	struct file_entry *file = find_as(typed, inode, &key);

	if (!file || file->state == STATE_PENDING)
		return 0;
	disk_read(file, &key, inode);
	if (actor(&process, file))
		written_by(file, &key, &process);
	book(file, &key, &process, &change);
	return 0;
}

/* ---- mounts ----------------------------------------------------------- */

static __always_inline void mounted(struct super_block *sb, __s32 by)
{
	struct file_key key = {};
	struct file_entry *root;
	struct layer *layer;
	struct dentry *dentry;

	if (BPF_CORE_READ(sb, s_magic) != OVERLAYFS_SUPER_MAGIC)
		return;
	dentry = BPF_CORE_READ(sb, s_root);
	if (!dentry)
		return;
	root = find(upper_inode(BPF_CORE_READ(dentry, d_inode)), &key);
	if (!root)
		return;
	layer = layer_of(root->layer);
	if (layer)
		__sync_fetch_and_add(&layer->mounts, by);
}

EXIT_PROGRAM("ovl_fill_super", mount_exit, 18, ALL_CALLS, NO_RESULT, struct super_block *sb)
{
	mounted(sb, 1);
	return 0;
}

ENTRY_PROGRAM("generic_shutdown_super", unmount_entry, struct super_block *sb)
{
	mounted(sb, -1);
	return 0;
}

/* Last, since it uses what is above. */
#include "plain.h"
