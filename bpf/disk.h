/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Growth of allocated bytes: what file systems tell, and when to read what they do not. */
#pragma once

/*
 * quota_changed is all that ext2, ext3 and ext4 do to i_blocks and reservations.
 * Of others that have quotas too (tmpfs, f2fs) i_blocks are read.
 */
static __always_inline void quota_changed(const bool typed, struct inode *inode, __s64 bytes)
{
	struct file_key key = {}, parent_key = {};
	struct file_entry *file = find_as(typed, inode, &key), *parent = NULL, fresh;
	struct rename *rename = NULL;
	struct dentry *subject;

	if (file) {
		if (file->disk_method == DISK_QUOTA)
			disk_changed(file, &key, bytes);
		return;
	}
	if (bytes <= 0 || !device_watched(key.device))
		return;
	subject = being_copied_up();
	if (subject) {
		/* The directory that it goes to, which the baseline scan has yet to enter. */
		if (inode == upper_inode(BPF_CORE_READ(subject, d_parent, d_inode)))
			return;
	} else {
		rename = left_by_rename(inode);
		if (!rename)
			return;
		parent = parent_of(false, (struct dentry *)rename->old, &parent_key);
		if (!parent || parent->disk_method != DISK_QUOTA)
			return;
	}
	new_entry(&fresh, parent, rename ? S_IFCHR : 0, STATE_PENDING);
	fresh.aside = bytes;
	if (bpf_map_update_elem(&files, &key, &fresh, BPF_NOEXIST) == 0 && rename)
		rename->whiteout = key;
}

/* Between these two, what is allocated is the last writer's. */
ENTRY_PROGRAM("do_writepages", writepages_entry, struct address_space *mapping)
{
	struct file_key key = {};

	if (!in_kernel_thread() && find_as(typed, READ(typed, mapping, host), &key))
		goes_into(&writing_back, WITHIN_WRITEBACK);
	return 0;
}

EXIT_PROGRAM("do_writepages", writepages_exit, 23, ALL_CALLS, NO_RESULT, struct address_space *mapping)
{
	comes_from(&writing_back, WITHIN_WRITEBACK);
	return 0;
}

/*
 * writes_from_here: the current process is the file's last writer already, before the
 * end of its write says so.
 */
static __always_inline void writes_from_here(const bool typed, struct file *open)
{
	struct process_id process;
	struct file_key key;
	struct file_entry *file = find_as(typed, READ(typed, open, f_inode), &key);

	if (!file || !actor(&process, file))
		return;
	announce_process(&process);
	written_by(file, &key, &process);
}

#define SYNC_ALL 0x7fffffffffffffffLL /* LLONG_MAX, the end that fsync asks for */

/* in_msync tells whether the current thread has called msync. */
static __always_inline bool in_msync(void)
{
#ifdef OLD_KERNEL
	/* As task_pt_regs does it on x86. */
	struct pt_regs *regs = (void *)BPF_CORE_READ(current_task(), stack) + 16384;

	regs--;
#else
	struct pt_regs *regs = (void *)bpf_task_pt_regs(bpf_get_current_task_btf());
#endif
	return SYSCALL(regs) == SYSCALL_MSYNC;
}

/*
 * What a write with O_SYNC or O_DSYNC has written back is its own, though the file's
 * last writer may be another process up to the end of that write. It asks for the
 * range that it has written, fsync for the whole file; msync for a range, too.
 */
ENTRY_PROGRAM("vfs_fsync_range", sync_write_entry, struct file *file, __s64 start, __s64 end)
{
	if (end != SYNC_ALL && !in_msync())
		writes_from_here(typed, file);
	return 0;
}

EXIT_PROGRAM("__dquot_alloc_space", quota_alloc_exit, 17, OF_INODE(0), 3, struct inode *inode, __s64 bytes, int flags, int ret)
{
	if (!ret)
		quota_changed(typed, inode, bytes);
	return 0;
}

ENTRY_PROGRAM("__dquot_free_space", quota_free_entry, struct inode *inode, __s64 bytes, int flags)
{
	quota_changed(typed, inode, -bytes);
	return 0;
}

static __always_inline void blocks_changed(const bool typed, struct inode *inode)
{
	struct file_key key;
	struct file_entry *file = find_as(typed, inode, &key);

	if (file)
		disk_read(file, &key, inode);
}

/*
 * xfs changes what stat adds up (i_nblocks, i_delayed_blks) under its own lock of
 * the inode, whatever the occasion: delayed allocation, its end in a worker, the
 * trimming of what was allocated ahead.
 */
ENTRY_PROGRAM("xfs_iunlock", xfs_unlock_entry, struct xfs_inode *xfs, unsigned int flags)
{
	if (!(flags & XFS_ILOCK_EXCL) || !bpf_core_type_exists(struct xfs_inode))
		return 0;
	blocks_changed(typed, (void *)xfs + bpf_core_field_offset(struct xfs_inode, i_vnode));
	return 0;
}

/* True where the next hook gets a struct inode, as on 6.1: by what BTF says. */
const volatile bool delalloc_of_inode = false;

/*
 * btrfs changes the range's state whenever it allocates or frees: at once for what
 * is written later, and in a worker for what that becomes, or for direct I/O.
 */
EXIT_PROGRAM("btrfs_clear_delalloc_extent", btrfs_clear_exit, 21, ALL_CALLS, NO_RESULT, void *inode)
{
	if (!delalloc_of_inode) {
		if (!bpf_core_type_exists(struct btrfs_inode))
			return 0;
		inode += bpf_core_field_offset(struct btrfs_inode, vfs_inode);
	}
	blocks_changed(false, inode);
	return 0;
}

/*
 * What a worker of btrfs allocates for direct I/O is the last writer's, which is known
 * at the end of a write only, unless it is told at its beginning.
 */
ENTRY_PROGRAM("btrfs_file_write_iter", btrfs_direct_entry, struct kiocb *iocb)
{
	if (READ(typed, iocb, ki_flags) & IOCB_DIRECT)
		writes_from_here(typed, READ(typed, iocb, ki_filp));
	return 0;
}

/*
 * blocks_touched: tmpfs may have allocated a page that somebody touched first, be it to
 * read a hole; why is said only if it has.
 */
static __always_inline void blocks_touched(struct inode *inode, __u32 cause)
{
	struct change change = { .causes = cause };
	struct process_id process;
	struct file_key key;
	struct file_entry *file = find(inode, &key);

	if (!file || file->disk == allocated_bytes(inode, file->disk_method))
		return;
	disk_read(file, &key, inode);
	if (file->state != STATE_LIVE)
		return;
	actor(&process, file);
	book(file, &key, &process, &change);
}

/* tmpfs knows no page_mkwrite. */
EXIT_PROGRAM("shmem_fault", shmem_fault_exit, 25, OF_FAULT, NO_RESULT, struct vm_fault *fault)
{
	blocks_touched(BPF_CORE_READ(fault, vma, vm_file, f_inode), CAUSE_MMAP);
	return 0;
}

/*
 * What reads a hole for the kernel (splice, sendfile, copy_file_range) gets pages of its
 * own before 5.18 (upstream 56a8c8eb1eaf).
 */
EXIT_PROGRAM("shmem_file_read_iter", shmem_read_exit, 27, OF_IOCB, NO_RESULT, struct kiocb *iocb)
{
	blocks_touched(BPF_CORE_READ(iocb, ki_filp, f_inode), CAUSE_ALLOCATE);
	return 0;
}
