/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Layers that are plain directories (Docker's vfs driver), without an overlay above
 * them: the VFS tells who joins, moves and leaves, the file system who writes. These
 * programs are attached with the first such layer. They leave the pages of overlays'
 * layers alone, which the same functions reach.
 */
#pragma once

/* parent_in_plain is parent_of where no overlay is in between. */
static __always_inline struct file_entry *parent_in_plain(struct dentry *dentry, struct file_key *key)
{
	struct file_entry *parent = find(READ(false, READ(false, dentry, d_parent), d_inode), key);

	return parent && parent->plain ? parent : NULL;
}

/*
 * File systems call one of these two when they have made an inode, or a further name
 * of one, with the parent directory locked.
 */
static __always_inline void instantiated(struct dentry *dentry, struct inode *inode)
{
	struct file_key key = {}, parent_key = {};
	struct file_entry *parent;

	if (!inode || !device_watched(READ(false, READ(false, inode, i_sb), s_dev)))
		return;
	parent = parent_in_plain(dentry, &parent_key);
	if (parent)
		appeared(false, dentry, inode, parent, &parent_key, find(inode, &key), 0);
}

ENTRY_PROGRAM("d_instantiate", plain_instantiate_entry, struct dentry *dentry, struct inode *inode)
{
	instantiated(dentry, inode);
	return 0;
}

ENTRY_PROGRAM("d_instantiate_new", plain_instantiate_new_entry, struct dentry *dentry, struct inode *inode)
{
	instantiated(dentry, inode);
	return 0;
}

/* True where d_tmpfile gets a file, not a dentry: by what BTF says. */
const volatile bool tmpfile_of_file = true;

/* A file without a name: the compiler may have made d_instantiate part of it. */
EXIT_PROGRAM("d_tmpfile", plain_tmpfile_exit, 41, ALL_CALLS, NO_RESULT)
{
	struct dentry *dentry = tmpfile_of_file ? BPF_CORE_READ((struct file *)ctx[0], f_path.dentry)
						: (struct dentry *)ctx[0];
	struct inode *inode = (struct inode *)ctx[1];
	struct file_key key;

	if (!find(inode, &key))
		instantiated(dentry, inode);
	return 0;
}

/* Of several names of a file, just one changes. */
static __always_inline bool one_of_several(struct file_entry *file, struct inode *inode)
{
	return (file->mode & S_IFMT) != S_IFDIR && READ(false, inode, i_nlink) > 1;
}

/* How far up belongs_below looks. */
#define LEVELS 200

/*
 * belongs_below tells whether a directory above a dentry is one of a plain layer, also
 * where those in between have no page yet, because the baseline scan has yet to enter
 * them.
 */
static __noinline bool belongs_below(struct dentry *dentry)
{
	struct dentry *parent;
	struct file_entry *file;
	struct file_key key;

	for (int i = 0; i < LEVELS; i++) {
		parent = READ(false, dentry, d_parent);
		if (parent == dentry)
			return false;
		file = find(READ(false, parent, d_inode), &key);
		if (file)
			return file->plain;
		dentry = parent;
	}
	return true;
}

/*
 * A rename across a layer's border is seen by these two, at the same moment as by
 * plain_move_entry: one program has no stack for all. An exchange is left to the audit.
 *
 * Something without a page comes into a directory of the layer. From outside it is growth,
 * as it is; what is below a directory only the audit finds.
 */
ENTRY_PROGRAM("d_move", plain_enter_entry, struct dentry *from, struct dentry *to)
{
	struct inode *inode = READ(false, from, d_inode);
	struct file_key key = {}, parent_key = {};
	struct file_entry *parent;

	if (!inode || !device_watched(READ(false, READ(false, inode, i_sb), s_dev)))
		return 0;
	parent = parent_in_plain(to, &parent_key);
	if (!parent || find(inode, &key))
		return 0;
	if (!belongs_below(from)) {
		appeared(false, to, inode, parent, &parent_key, false,
			 parent->disk_method == DISK_QUOTA ? reserved_bytes(inode) : 0);
		return 0;
	}
	strayed(parent);
	return 0;
}

/*
 * A file goes from a directory of the layer to where there is none. One of several names
 * takes nothing with it; a directory would have to be walked, and is left to the audit.
 */
ENTRY_PROGRAM("d_move", plain_leave_entry, struct dentry *from, struct dentry *to)
{
	struct inode *inode = READ(false, from, d_inode);
	struct change change = { .causes = CAUSE_RENAME };
	struct file_key key = {}, parent_key = {};
	struct file_event gone = {};
	struct file_entry *file, *parent;
	struct process_id process;

	if (!inode || !device_watched(READ(false, READ(false, inode, i_sb), s_dev)))
		return 0;
	file = find(inode, &key);
	if (!file || !file->plain || (file->mode & S_IFMT) == S_IFDIR || belongs_below(to))
		return 0;
	parent = parent_in_plain(from, &parent_key);
	if (!parent)
		return 0;
	current_process(&process);
	announce_process(&process);
	named_in(false, parent, &parent_key, FILE_UNLINKED, file, &key, from, &process);
	if (READ(false, inode, i_nlink) > 1)
		return 0;
	if (file->state == STATE_LIVE) {
		disk_read(file, &key, inode);
		file->state = STATE_PENDING;
		change.disk = -exchange(&file->disk, 0);
		if (file->size != SIZE_UNKNOWN)
			change.size = -file->size;
		book(file, &key, &process, &change);
	}
	gone.op = FILE_GONE;
	gone.layer = file->layer;
	gone.inode = key.inode;
	gone.generation = file->generation;
	bpf_map_delete_elem(&files, &key);
	emit_file(&gone);
	return 0;
}

/* A rename has been done; the dentries are about to follow. */
static __always_inline void relocated(struct dentry *from, struct dentry *to, bool exchange)
{
	struct inode *inode = READ(false, from, d_inode), *target = READ(false, to, d_inode);
	struct file_key key = {}, other_key = {}, old_key = {}, new_key = {};
	struct change change = { .causes = CAUSE_RENAME };
	struct file_entry *file, *other = NULL, *old, *new;
	struct process_id process;
	bool several = false;

	if (!inode || !device_watched(READ(false, READ(false, inode, i_sb), s_dev)))
		return;
	new = parent_in_plain(to, &new_key);
	file = find(inode, &key);
	if (!new || !file)
		return;
	old = parent_in_plain(from, &old_key);
	/* It has just come from outside: plain_enter_entry has told of it, or will. */
	if (!old && !one_of_several(file, inode))
		return;
	if (exchange)
		other = find(target, &other_key);
	current_process(&process);
	if (other) {
		several = one_of_several(other, target);
		if (several)
			named_in(false, new, &new_key, FILE_UNLINKED, other, &other_key, to, &process);
	}
	if (one_of_several(file, inode)) {
		named_in(false, new, &new_key, FILE_LINKED, file, &key, to, &process);
		if (old)
			named_in(false, old, &old_key, FILE_UNLINKED, file, &key, from, &process);
	} else {
		named_in(false, new, &new_key, FILE_RENAMED, file, &key, to, &process);
	}
	book(file, &key, &process, &change);
	if (!other || !old)
		return;
	named_in(false, old, &old_key, several ? FILE_LINKED : FILE_RENAMED, other, &other_key, from, &process);
	book(other, &other_key, &process, &change);
}

ENTRY_PROGRAM("d_move", plain_move_entry, struct dentry *dentry, struct dentry *target)
{
	relocated(dentry, target, false);
	return 0;
}

ENTRY_PROGRAM("d_exchange", plain_exchange_entry, struct dentry *one, struct dentry *other)
{
	relocated(one, other, true);
	return 0;
}

/* A name has been removed; the dentry still has its inode. */
ENTRY_PROGRAM("d_delete", plain_delete_entry, struct dentry *dentry)
{
	struct change change = { .causes = CAUSE_DELETE };
	struct inode *inode = READ(false, dentry, d_inode);
	struct file_key key = {}, parent_key = {};
	struct file_entry *file, *parent;
	struct process_id process;
	struct layer *layer;

	if (!inode || !device_watched(READ(false, READ(false, inode, i_sb), s_dev)))
		return 0;
	parent = parent_in_plain(dentry, &parent_key);
	if (!parent)
		return 0;
	layer = layer_of(parent->layer);
	file = find(inode, &key);
	/* What is not in use is being removed by its runtime. */
	if (!file || !layer || layer->mounts <= 0)
		return 0;
	current_process(&process);
	if (file->state == STATE_LIVE)
		book(file, &key, &process, &change);
	named_in(false, parent, &parent_key, FILE_UNLINKED, file, &key, dentry, &process);
	return 0;
}

/* True where generic_perform_write gets a kiocb, not a file: by what BTF says. */
const volatile bool perform_of_iocb = true;

#define PERFORMED                                                              \
	(perform_of_iocb ? BPF_CORE_READ((struct kiocb *)ctx[0], ki_filp, f_inode) \
			 : BPF_CORE_READ((struct file *)ctx[0], f_inode))

/*
 * What a buffered write consists of, with the inode locked: here two processes that
 * append to one file are told apart. How much was written, the next one counts.
 */
static __always_inline void plain_performed(struct inode *inode)
{
	struct change change = { .causes = CAUSE_WRITE };
	struct file_key key;
	struct file_entry *file = find(inode, &key);
	__s64 size;

	if (!file || !file->plain)
		return;
	size = READ(false, inode, i_size);
	if (file->size != size)
		size_changed(false, file, &key, inode, &change);
}

EXIT_PROGRAM("generic_perform_write", plain_perform_exit, 40, PERFORMED, NO_RESULT)
{
	plain_performed(PERFORMED);
	return 0;
}

/* The same of xfs. */
EXIT_PROGRAM("iomap_file_buffered_write", plain_iomap_exit, 46, OF_IOCB, NO_RESULT)
{
	plain_performed(OF_IOCB);
	return 0;
}

/* Every kind of write to a file goes through one of the functions below. */
static __always_inline void plain_writing(struct kiocb *iocb)
{
	__u64 which = (__u64)iocb;
	struct process_id process;
	struct file_key key;
	struct file_entry *file;

	if (!READ(false, iocb, ki_complete))
		return;
	file = find(READ(false, READ(false, iocb, ki_filp), f_inode), &key);
	if (!file || !file->plain)
		return;
	/* It may be over, in whatever context, before the call returns. */
	current_process(&process);
	announce_process(&process);
	bpf_map_update_elem(&queued, &which, &process, BPF_ANY);
}

static __always_inline void plain_written(struct kiocb *iocb, long ret)
{
	struct inode *inode = READ(false, READ(false, iocb, ki_filp), f_inode);
	__u64 request = (__u64)iocb;
	struct change change = { .causes = CAUSE_WRITE };
	struct process_id process;
	struct file_key key;
	struct file_entry *file = find(inode, &key);

	if (!file || !file->plain)
		return;
	if (ret != -EIOCBQUEUED && READ(false, iocb, ki_complete))
		bpf_map_delete_elem(&queued, &request);
	disk_read(file, &key, inode);
	if (ret <= 0 && ret != -EIOCBQUEUED)
		return;
	if (ret > 0 && !is_within(copying, WITHIN_COPY)) {
		change.written = ret;
		change.writes = 1;
	}
	/*
	 * The lock has been let go of: another process may be about to book what it
	 * has appended. Where this write's end is in the books, so is all of it.
	 */
	if (ret > 0 && file->size < READ(false, iocb, ki_pos)) {
		size_changed(false, file, &key, inode, &change);
		return;
	}
	if (actor(&process, file))
		file->writer = process;
	book(file, &key, &process, &change);
}

/* On every kernel the copy may be a write too: it is counted at its end. */
ENTRY_PROGRAM("vfs_copy_file_range", plain_copy_range_entry, struct file *in, __s64 pos_in, struct file *out)
{
	copy_begins(out);
	return 0;
}

EXIT_PROGRAM("vfs_copy_file_range", plain_copy_range_exit, 45, OF_FILE(2), 6, struct file *in, __s64 pos_in, struct file *out,
	     __s64 pos_out, unsigned long len, unsigned int flags, long ret)
{
	struct change change = { .written = ret, .writes = 1, .causes = CAUSE_WRITE };
	struct inode *inode = READ(false, out, f_inode);
	struct file_key key;
	struct file_entry *file = find(inode, &key);

	if (!file || !file->plain || ret <= 0)
		return 0;
	disk_read(file, &key, inode);
	size_changed(false, file, &key, inode, &change);
	return 0;
}

/* Who asked for a write is told of its end, also of one that was not queued. */
static __always_inline void plain_completed(struct kiocb *iocb, long bytes)
{
	__u64 request = (__u64)iocb;

	if (device_watched(BPF_CORE_READ(iocb, ki_filp, f_inode, i_sb, s_dev)) &&
	    bpf_map_lookup_elem(&queued, &request))
		completed(iocb, bytes);
}

ENTRY_PROGRAM("aio_complete_rw", plain_aio_entry, struct kiocb *iocb, long res)
{
	plain_completed(iocb, res);
	return 0;
}

ENTRY_PROGRAM("io_complete_rw", plain_uring_entry, struct kiocb *iocb, long res)
{
	plain_completed(iocb, res);
	return 0;
}

#define PLAIN_WRITES(fs, id)                                                             \
	ENTRY_PROGRAM(#fs "_file_write_iter", plain_##fs##_entry, struct kiocb *iocb)    \
	{                                                                                \
		plain_writing(iocb);                                                     \
		return 0;                                                                \
	}                                                                                \
	EXIT_PROGRAM(#fs "_file_write_iter", plain_##fs##_exit, id, OF_IOCB, 2,          \
		     struct kiocb *iocb, void *iter, long ret)                           \
	{                                                                                \
		plain_written(iocb, ret);                                                \
		return 0;                                                                \
	}

PLAIN_WRITES(ext4, 42)
PLAIN_WRITES(xfs, 43)
PLAIN_WRITES(btrfs, 44)
