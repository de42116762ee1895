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

#include "kernel_compat.h"
#include "event.h"
#include "maps.h"
#include "program.h"
#include "actor.h"
#include "ledger.h"
#include "tree.h"
#include "covered.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* ---- creation --------------------------------------------------------- */

/*
 * ovl_instantiate(dentry, inode, newdentry, hardlink[, tmpfile since 6.12]) ties
 * a new upper inode, or a further name of one, to an overlay dentry. Its parent
 * directory is locked and nobody else can have found the inode yet.
 */
ENTRY_PROGRAM("ovl_instantiate", instantiate_entry, struct dentry *dentry, struct inode *overlay,
	     struct dentry *upper, bool hardlink)
{
	struct file_key key = {}, parent_key = {};
	struct file_entry *file, *parent, fresh;
	struct inode *inode = BPF_CORE_READ(upper, d_inode);
	struct process_id process;
	__u32 nlink;
	__s64 moved;

	parent = parent_of(dentry, &parent_key);
	if (!parent || !inode)
		return 0;
	current_process(&process);
	nlink = BPF_CORE_READ(inode, i_nlink);
	file = find(inode, &key);

	if (file && hardlink) {
		if (file->state == STATE_DELETED && nlink) {
			/* An O_TMPFILE has got its first name. */
			moved = file->aside;
			aside_changed(file, -moved);
			published(file, &key, file->size, &process, CAUSE_CREATE);
		} else {
			struct change change = { .causes = CAUSE_CREATE };

			book(file, &key, &process, &change);
		}
		named(FILE_LINKED, file, &key, dentry, &process);
		return 0;
	}

	new_entry(&fresh, parent->layer, BPF_CORE_READ(inode, i_mode),
		  nlink ? STATE_PENDING : STATE_DELETED);
	fresh.aside = allocated_bytes(inode);
	key.device = BPF_CORE_READ(inode, i_sb, s_dev);
	key.inode = BPF_CORE_READ(inode, i_ino);
	/*
	 * A page may be there already if the tracer's scan found the new name
	 * first: then it is part of the baseline.
	 */
	if (bpf_map_update_elem(&files, &key, &fresh, BPF_NOEXIST)) {
		if (!bpf_map_lookup_elem(&files, &key))
			untracked(fresh.layer);
		return 0;
	}
	file = bpf_map_lookup_elem(&files, &key);
	if (!file)
		return 0;
	announce_process(&process);
	/* The dentry of an O_TMPFILE has a name that is none. */
	named_in(parent, &parent_key, FILE_CREATED, file, &key, nlink ? dentry : NULL, &process);
	if (nlink)
		published(file, &key, BPF_CORE_READ(inode, i_size), &process, CAUSE_CREATE);
	else
		aside_changed(file, fresh.aside);
	return 0;
}

/* ---- copy-up ---------------------------------------------------------- */

/*
 * Between entry and exit of ovl_copy_up_one the thread fills an inode in the
 * work directory. The quota hooks meet it there first and open a pending page,
 * which ovl_inode_update publishes just before others can reach the inode.
 */
ENTRY_PROGRAM("ovl_copy_up_one", copy_up_entry, struct dentry *parent, struct dentry *dentry, int flags)
{
	struct file_key key = {};
	__u64 thread, subject = (__u64)dentry;

	/* The parent may join the ledger while this goes on: ask the layer's root. */
	if (!find(upper_inode(BPF_CORE_READ(dentry, d_sb, s_root, d_inode)), &key))
		return 0;
	thread = bpf_get_current_pid_tgid();
	if (bpf_map_update_elem(&copy_ups, &thread, &subject, BPF_NOEXIST) == 0)
		__sync_fetch_and_add(&copying_up, 1);
	return 0;
}

EXIT_PROGRAM("ovl_copy_up_one", copy_up_exit, 1, ALL_CALLS, 3, struct dentry *parent, struct dentry *dentry, int flags, int ret)
{
	__u64 thread = bpf_get_current_pid_tgid();

	if (copying_up > 0 && bpf_map_delete_elem(&copy_ups, &thread) == 0)
		__sync_fetch_and_add(&copying_up, -1);
	return 0;
}

ENTRY_PROGRAM("ovl_inode_update", copied_up_entry, struct inode *overlay, struct dentry *upper)
{
	__u64 thread = bpf_get_current_pid_tgid(), *subject;
	struct file_key key = {}, parent_key = {};
	struct inode *inode = BPF_CORE_READ(upper, d_inode);
	struct file_entry *file, *parent, fresh;
	struct process_id process;
	struct dentry *dentry;

	if (!inode)
		return 0;
	subject = bpf_map_lookup_elem(&copy_ups, &thread);
	if (subject) {
		dentry = (struct dentry *)*subject;
		parent = parent_of(dentry, &parent_key);
	} else {
		/* It began before tracing did; the upper dentry tells place and name. */
		dentry = upper;
		parent = find(BPF_CORE_READ(upper, d_parent, d_inode), &parent_key);
	}
	if (!parent)
		return 0;

	file = find(inode, &key);
	if (!file) {
		/*
		 * Nothing was allocated for it (an empty file, a short symlink), or
		 * that was before tracing began; overlayfs has synced its data since.
		 */
		new_entry(&fresh, parent->layer, 0, STATE_PENDING);
		fresh.aside = allocated_bytes(inode);
		if (bpf_map_update_elem(&files, &key, &fresh, BPF_NOEXIST)) {
			untracked(fresh.layer);
			return 0;
		}
		file = bpf_map_lookup_elem(&files, &key);
		if (!file)
			return 0;
	}
	if (file->state != STATE_PENDING)
		return 0;
	file->mode = BPF_CORE_READ(inode, i_mode);
	file->layer = parent->layer;
	current_process(&process);
	announce_process(&process);
	named_in(parent, &parent_key, FILE_COPIED_UP, file, &key, dentry, &process);
	published(file, &key, BPF_CORE_READ(inode, i_size), &process, CAUSE_COPY_UP);
	return 0;
}

/* ---- names ------------------------------------------------------------ */

/*
 * stray notes that something without a page was moved to where pages are: from a
 * directory that the baseline scan has yet to enter into one that it has left.
 */
static __always_inline void stray(struct dentry *dentry)
{
	struct file_key key = {};
	struct file_entry *parent = parent_of(dentry, &key);
	struct layer *layer;

	if (!parent)
		return;
	layer = layer_of(parent->layer);
	if (layer)
		__sync_fetch_and_add(&layer->strays, 1);
}

/*
 * ovl_rename's first argument is a user namespace since 5.12, an idmap since 6.3.
 * The VFS moves the dentries only after it has returned: `new` still tells the
 * file's new place.
 */
EXIT_PROGRAM("ovl_rename", rename_exit, 2, ALL_CALLS, 6, void *idmap, struct inode *olddir, struct dentry *old,
	     struct inode *newdir, struct dentry *new, unsigned int flags, int ret)
{
	struct change change = { .causes = CAUSE_RENAME };
	struct file_key key = {};
	struct process_id process;
	struct file_entry *file;

	if (ret)
		return 0;
	file = find(upper_inode(BPF_CORE_READ(old, d_inode)), &key);
	if (!file) {
		stray(new);
		return 0;
	}
	current_process(&process);
	if ((file->mode & S_IFMT) != S_IFDIR && BPF_CORE_READ(old, d_inode, i_nlink) > 1) {
		/* Of several names just this one has moved. */
		named(FILE_LINKED, file, &key, new, &process);
		named(FILE_UNLINKED, file, &key, old, &process);
	} else {
		named(FILE_RENAMED, file, &key, new, &process);
	}
	book(file, &key, &process, &change);
	if (!(flags & RENAME_EXCHANGE))
		return 0;
	file = find(upper_inode(BPF_CORE_READ(new, d_inode)), &key);
	if (!file)
		return 0;
	named(FILE_RENAMED, file, &key, old, &process);
	book(file, &key, &process, &change);
	return 0;
}

/*
 * ovl_do_remove takes a name out of the layer. Whether the image has something
 * of that name, so that a whiteout is left, shows in ovl_cleanup_and_whiteout
 * being called on the way.
 */
ENTRY_PROGRAM("ovl_do_remove", remove_entry, struct dentry *dentry)
{
	__u64 thread = bpf_get_current_pid_tgid();
	struct file_key key = {};
	__u8 whiteout = 0;

	/* The parent directory may be copied up only now: ask the layer's root. */
	if (find(upper_inode(BPF_CORE_READ(dentry, d_sb, s_root, d_inode)), &key))
		bpf_map_update_elem(&removals, &thread, &whiteout, BPF_ANY);
	return 0;
}

ENTRY_PROGRAM("ovl_cleanup_and_whiteout", whiteout_entry)
{
	__u64 thread = bpf_get_current_pid_tgid();
	__u8 *whiteout = bpf_map_lookup_elem(&removals, &thread);

	if (whiteout)
		*whiteout = 1;
	return 0;
}

EXIT_PROGRAM("ovl_do_remove", remove_exit, 3, ALL_CALLS, 2, struct dentry *dentry, int is_dir, int ret)
{
	struct change change = { .causes = CAUSE_DELETE };
	__u64 thread = bpf_get_current_pid_tgid();
	struct file_key key = {}, parent_key = {};
	struct file_event event = {};
	struct process_id process;
	struct file_entry *file, *parent;
	bool whiteout = false;
	__u8 *removal;

	removal = bpf_map_lookup_elem(&removals, &thread);
	if (removal) {
		whiteout = *removal;
		bpf_map_delete_elem(&removals, &thread);
	}
	if (ret)
		return 0;
	parent = parent_of(dentry, &parent_key);
	if (!parent)
		return 0;
	current_process(&process);
	file = find(upper_inode(BPF_CORE_READ(dentry, d_inode)), &key);
	if (file) {
		/* It has other names; without any, unlinked has booked it. */
		if (file->state == STATE_LIVE)
			book(file, &key, &process, &change);
		named(FILE_UNLINKED, file, &key, dentry, &process);
	}
	if (!whiteout)
		return 0;
	announce_process(&process);
	event.op = FILE_WHITEOUT;
	event.layer = parent->layer;
	event.mode = BPF_CORE_READ(dentry, d_inode, i_mode);
	event.parent_inode = parent_key.inode;
	event.parent_generation = parent->generation;
	event.process = process;
	event.dentry = dentry;
	emit_file(&event);
	return 0;
}

/* ---- the last name, the last reference -------------------------------- */

static __always_inline void unlinked(struct inode *inode)
{
	struct change change = { .causes = CAUSE_DELETE };
	struct process_id process;
	struct file_key key;
	struct file_entry *file = find(inode, &key);
	struct layer *layer;
	__s64 moved;

	if (!file || BPF_CORE_READ(inode, i_nlink) || file->state != STATE_LIVE)
		return;
	layer = layer_of(file->layer);
	/*
	 * Without a mount the layer is not in use: it is being removed by its
	 * runtime, which is the layer's end and not a change of it.
	 */
	if (!layer || layer->mounts <= 0)
		return;
	file->state = STATE_DELETED;
	moved = __sync_lock_test_and_set(&file->disk, 0);
	__sync_fetch_and_add(&file->aside, moved);
	__sync_fetch_and_add(&layer->open_deleted, moved);
	__sync_fetch_and_add(&file->events, 1);
	change.disk = -moved;
	if ((file->mode & S_IFMT) != S_IFDIR && file->size != SIZE_UNKNOWN)
		change.size = -file->size;
	actor(&process, file);
	book(file, &key, &process, &change);
}

/* Every file system's unlink, rename and rmdir end in one of these two. */
EXIT_PROGRAM("drop_nlink", drop_nlink_exit, 4, OF_INODE(0), NO_RESULT, struct inode *inode)
{
	unlinked(inode);
	return 0;
}

EXIT_PROGRAM("clear_nlink", clear_nlink_exit, 5, OF_INODE(0), NO_RESULT, struct inode *inode)
{
	unlinked(inode);
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

	if (BPF_CORE_READ(inode, i_nlink))
		return 0;
	file = find(inode, &key);
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
	if (announce)
		emit_file(&event);
	return 0;
}

/* ---- growth: sizes ---------------------------------------------------- */

static __always_inline void written(struct inode *inode, __s64 bytes, __u32 cause)
{
	struct change change = { .causes = cause };
	struct file_key key;
	struct file_entry *file = find(inode, &key);
	__s64 size;

	if (!file)
		return;
	size = BPF_CORE_READ(inode, i_size);
	if (bytes > 0) {
		change.written = bytes;
		change.writes = 1;
	} else if (bytes != -EIOCBQUEUED && file->size == size) {
		return;
	}
	size_changed(file, &key, size, &change);
}

/* Writes of overlayfs to the real file, since 6.8 (upstream 5f034d34737e). */
EXIT_PROGRAM("backing_file_write_iter", backing_write_exit, 6, OF_FILE(0), 5, struct file *file, void *iter, struct kiocb *iocb, int flags,
	     void *context, long ret)
{
	written(BPF_CORE_READ(file, f_inode), ret, CAUSE_WRITE);
	return 0;
}

EXIT_PROGRAM("backing_file_splice_write", backing_splice_exit, 7, OF_FILE(1), 6, void *pipe, struct file *file, void *pos, unsigned long len,
	     unsigned int flags, void *context, long ret)
{
	written(BPF_CORE_READ(file, f_inode), ret, CAUSE_WRITE);
	return 0;
}

/* And before 6.8. splice and sendfile end in vfs_iter_write there. */
EXIT_PROGRAM("vfs_iter_write", iter_write_exit, 8, OF_FILE(0), 4, struct file *file, void *iter, void *pos, int flags, long ret)
{
	written(BPF_CORE_READ(file, f_inode), ret, CAUSE_WRITE);
	return 0;
}

EXIT_PROGRAM("vfs_iocb_iter_write", iocb_write_exit, 9, OF_FILE(0), 3, struct file *file, struct kiocb *iocb, void *iter, long ret)
{
	written(BPF_CORE_READ(file, f_inode), ret, CAUSE_WRITE);
	return 0;
}

/*
 * Asynchronous writes: the size has changed when the call returns, what was
 * written is known only now, on behalf of the file's last writer.
 */
static __always_inline void completed(struct kiocb *iocb, long bytes)
{
	struct change change = { .causes = CAUSE_WRITE };
	struct inode *inode = BPF_CORE_READ(iocb, ki_filp, f_inode);
	struct file_key key;
	struct file_entry *file;

	if (bytes <= 0 || !(BPF_CORE_READ(iocb, ki_flags) & IOCB_WRITE))
		return;
	file = find(inode, &key);
	if (!file)
		return;
	struct process_id process = file->writer;
	change.written = bytes;
	change.writes = 1;
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

EXIT_PROGRAM("vfs_fallocate", fallocate_exit, 10, OF_FILE(0), 4, struct file *file, int mode, __s64 offset, __s64 len, long ret)
{
	struct change change = { .causes = CAUSE_ALLOCATE };
	struct file_key key;
	struct inode *inode = BPF_CORE_READ(file, f_inode);
	struct file_entry *entry = find(inode, &key);

	if (entry && !ret)
		size_changed(entry, &key, BPF_CORE_READ(inode, i_size), &change);
	return 0;
}

/*
 * Before 6.8 copy_file_range to a file system that cannot share extents passes
 * vfs_iter_write on its way, which has counted what was written: so only the
 * size is compared there (count_copies is false).
 */
const volatile bool count_copies = true;

EXIT_PROGRAM("vfs_copy_file_range", copy_range_exit, 11, OF_FILE(2), 6, struct file *in, __s64 pos_in, struct file *out, __s64 pos_out,
	     unsigned long len, unsigned int flags, long ret)
{
	written(BPF_CORE_READ(out, f_inode), count_copies ? ret : 0, CAUSE_WRITE);
	return 0;
}

EXIT_PROGRAM("vfs_clone_file_range", clone_range_exit, 12, OF_FILE(2), 6, struct file *in, __s64 pos_in, struct file *out, __s64 pos_out,
	     __s64 len, unsigned int flags, __s64 ret)
{
	written(BPF_CORE_READ(out, f_inode), ret, CAUSE_CLONE);
	return 0;
}

/* notify_change(idmap or user namespace since 5.12, dentry, attributes, …) */
EXIT_PROGRAM("notify_change", notify_change_exit, 13, OF_DENTRY(1), NO_RESULT, void *idmap, struct dentry *dentry, struct iattr *attr)
{
	struct change change = {};
	struct inode *inode = BPF_CORE_READ(dentry, d_inode);
	struct file_key key;
	struct file_entry *file = find(inode, &key);
	__s64 size;

	if (!file || file->state == STATE_PENDING)
		return 0;
	size = BPF_CORE_READ(inode, i_size);
	if (BPF_CORE_READ(attr, ia_valid) & ATTR_SIZE)
		change.causes = CAUSE_TRUNCATE;
	else if (file->size == size || (file->mode & S_IFMT) == S_IFDIR)
		return 0;
	size_changed(file, &key, size, &change);
	return 0;
}

/*
 * Extended attributes may take a block of their own, which the quota hooks book:
 * this tells why. (idmap or user namespace since 5.12, dentry, …)
 */
static __always_inline void attributes_changed(struct dentry *dentry)
{
	struct change change = { .causes = CAUSE_METADATA };
	struct file_key key;
	struct file_entry *file = find(BPF_CORE_READ(dentry, d_inode), &key);
	struct process_id process;

	if (!file || file->state == STATE_PENDING)
		return;
	actor(&process, file);
	book(file, &key, &process, &change);
}

EXIT_PROGRAM("vfs_setxattr", setxattr_exit, 14, OF_DENTRY(1), NO_RESULT, void *idmap, struct dentry *dentry)
{
	attributes_changed(dentry);
	return 0;
}

EXIT_PROGRAM("vfs_removexattr", removexattr_exit, 15, OF_DENTRY(1), NO_RESULT, void *idmap, struct dentry *dentry)
{
	attributes_changed(dentry);
	return 0;
}

/* Where ACLs have an entry point of their own (seen from 6.5 on). */
EXIT_PROGRAM("vfs_set_acl", set_acl_exit, 16, OF_DENTRY(1), NO_RESULT, void *idmap, struct dentry *dentry)
{
	attributes_changed(dentry);
	return 0;
}

/* A first store to a page of a shared mapping: tells why disk is allocated. */
ENTRY_PROGRAM("do_page_mkwrite", page_mkwrite_entry, struct vm_fault *fault)
{
	struct change change = { .causes = CAUSE_MMAP };
	struct process_id process;
	struct file_key key;
	struct file_entry *file;

	file = find(BPF_CORE_READ(fault, vma, vm_file, f_inode), &key);
	if (!file || file->state == STATE_PENDING)
		return 0;
	if (actor(&process, file))
		file->writer = process;
	book(file, &key, &process, &change);
	return 0;
}

/* ---- growth: allocated bytes ------------------------------------------ */

/* quota_changed is all that ext2, ext3 and ext4 do to i_blocks and reservations. */
static __always_inline void quota_changed(struct inode *inode, __s64 bytes)
{
	struct file_key key;
	struct file_entry *file = find(inode, &key), fresh;
	__u64 thread;

	if (file) {
		disk_changed(file, &key, bytes);
		return;
	}
	if (copying_up <= 0 || !device_watched(key.device) || bytes <= 0)
		return;
	thread = bpf_get_current_pid_tgid();
	if (!bpf_map_lookup_elem(&copy_ups, &thread))
		return;
	new_entry(&fresh, 0, 0, STATE_PENDING);
	fresh.aside = bytes;
	bpf_map_update_elem(&files, &key, &fresh, BPF_NOEXIST);
}

EXIT_PROGRAM("__dquot_alloc_space", quota_alloc_exit, 17, OF_INODE(0), 3, struct inode *inode, __s64 bytes, int flags, int ret)
{
	if (!ret)
		quota_changed(inode, bytes);
	return 0;
}

ENTRY_PROGRAM("__dquot_free_space", quota_free_entry, struct inode *inode, __s64 bytes, int flags)
{
	quota_changed(inode, -bytes);
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

/* ---- the baseline: run by the tracer itself ---------------------------- */

enum {
	TRACK_NEW = 0,
	TRACK_KNOWN = 1,
	TRACK_FULL = 2,

	SETTLE_DONE = 0,
	SETTLE_AGAIN = 1,
	SETTLE_GONE = 2,
	SETTLE_SIZE_TAKEN = 3,
};

/* track opens the page of an inode that the scan is about to look at. */
SEC("raw_tp")
int track(struct track_args *args)
{
	struct file_key key = { .inode = args->inode, .device = args->device };
	struct file_entry entry = {
		.size = (args->mode & S_IFMT) == S_IFDIR ? 0 : SIZE_UNKNOWN,
		.layer = args->layer,
		.mode = args->mode,
		.state = STATE_LIVE,
	};

	if (bpf_map_update_elem(&files, &key, &entry, BPF_NOEXIST) == 0)
		return TRACK_NEW;
	return bpf_map_lookup_elem(&files, &key) ? TRACK_KNOWN : TRACK_FULL;
}

/*
 * settle gives a page its baseline, what stat said after track; if no disk was
 * booked on it since userspace looked (disk_events, disk), stat and page speak of
 * the same moment. A size that a hook has read meanwhile is the baseline instead.
 */
SEC("raw_tp")
int settle(struct settle_args *args)
{
	struct file_key key = { .inode = args->inode, .device = args->device };
	struct file_entry *file = bpf_map_lookup_elem(&files, &key);

	if (!file || file->state != STATE_LIVE)
		return SETTLE_GONE;
	if (file->settled)
		return SETTLE_SIZE_TAKEN;
	if (file->disk_events != args->disk_events)
		return SETTLE_AGAIN;
	file->base_disk = args->allocated - args->disk;
	__sync_fetch_and_add(&file->disk, file->base_disk);
	file->settled = 1;
	if ((file->mode & S_IFMT) == S_IFDIR)
		return SETTLE_DONE;
	if (__sync_val_compare_and_swap(&file->size, SIZE_UNKNOWN, args->size) != SIZE_UNKNOWN)
		return SETTLE_SIZE_TAKEN;
	file->base_size = args->size;
	return SETTLE_DONE;
}
