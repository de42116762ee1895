/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Where kernels differ, or where a layout is relied on that BTF does not spell out. */
#pragma once

/*
 * READ follows a pointer. One that the verifier knows the type of (typed, which has
 * to be a constant) is read as C reads, a few instructions. What a typed pointer leads
 * to is typed, too. Others are given their type where the kernel can do that, and else
 * read by a helper that takes ten times as many instructions.
 */
#ifdef OLD_KERNEL
#define READ(typed, from, field)                                              \
	({                                                                    \
		typeof(from) at_ = (from);                                    \
		(typed) ? at_->field : BPF_CORE_READ(at_, field);             \
	})
#else
/* Whether the kernel has bpf_rdonly_cast, for types of its own: since 6.2 (upstream a35b9af4ec2c). */
const volatile bool casts = false;
extern void *bpf_rdonly_cast(const void *pointer, __u32 type) __ksym __weak;

#define READ(typed, from, field)                                              \
	({                                                                    \
		typeof(from) at_ = (from);                                    \
		typeof(at_->field) value_;                                    \
		if (typed)                                                    \
			value_ = at_->field;                                  \
		else if (casts)                                               \
			value_ = ((typeof(at_))bpf_rdonly_cast(               \
				at_, bpf_core_type_id_kernel(typeof(*at_))))->field; \
		else                                                          \
			value_ = BPF_CORE_READ(at_, field);                   \
		value_;                                                       \
	})
#endif

/* The task at work: as a typed pointer since 5.11 (upstream 3ca1032ab7ab). */
#ifdef OLD_KERNEL
#define TASK_TYPED false
#define current_task() ((struct task_struct *)bpf_get_current_task())
#else
#define TASK_TYPED true
#define current_task() ((struct task_struct *)bpf_get_current_task_btf())
#endif

/*
 * upper_dentry returns the upper dentry of an overlay inode, or NULL if its data
 * is still in the image only. struct ovl_inode embeds the VFS inode and keeps
 * __upperdentry right behind it: so since 4.13 (upstream 09d8b586731b) and so
 * found in the BTF of 5.15, 6.1, 6.5, 6.8, 6.12, 6.18 and 7.3. Going by position
 * needs the size of struct inode only, so it works where modules have no BTF.
 */
static __always_inline struct dentry *upper_dentry(struct inode *overlay)
{
	struct dentry *upper = NULL;

	bpf_probe_read_kernel(&upper, sizeof(upper),
			      (void *)overlay + bpf_core_type_size(struct inode));
	return upper;
}

/* upper_inode is the inode behind upper_dentry, or NULL. */
static __always_inline struct inode *upper_inode(struct inode *overlay)
{
	struct dentry *upper;

	if (!overlay)
		return NULL;
	upper = upper_dentry(overlay);
	return upper ? READ(false, upper, d_inode) : NULL;
}

/*
 * Programs may exchange values atomically since 5.12 (upstream 5ffa25502b5a and
 * 5ca419f2864a), and call a function for each element of a map since 5.13
 * (69c087ba6225). OLD_KERNEL builds the same programs for 5.10: there two CPUs that
 * meet in one of these may lose a change of an inode, which its next one makes up
 * for. Sizes change under overlayfs's lock of the inode, so that only allocated
 * bytes could be concerned.
 */
#ifdef OLD_KERNEL
static __always_inline __s64 exchange(__s64 *place, __s64 value)
{
	__s64 before = *(volatile __s64 *)place;

	*(volatile __s64 *)place = value;
	return before;
}

static __always_inline __s64 compare_exchange(__s64 *place, __s64 expected, __s64 value)
{
	__s64 before = *(volatile __s64 *)place;

	if (before == expected)
		*(volatile __s64 *)place = value;
	return before;
}

static __always_inline void set_bits(__u32 *place, __u32 bits)
{
	*(volatile __u32 *)place |= bits;
}
#else
#define exchange(place, value) __sync_lock_test_and_set(place, value)
#define compare_exchange(place, expected, value) __sync_val_compare_and_swap(place, expected, value)
#define set_bits(place, bits) __sync_fetch_and_or(place, bits)
#endif

/*
 * Whether notify_change, the extended attributes' functions and ovl_rename get a
 * user namespace (since 5.12, upstream 549c7297717c) or an idmap (since 6.3) first.
 */
const volatile bool idmapped = true;

/*
 * 1 << 18 since 5.11 (upstream 7e68f3fb2ddb, also in 5.10's later stable releases),
 * 1 << 6 before. That bit has come to mean an atomic write, so either means a write.
 */
#define IOCB_WRITE (1 << 18 | 1 << 6)
/* As moved by the same commit; asked for on btrfs only, which takes a later kernel. */
#define IOCB_DIRECT (1 << 17)

static __always_inline __s64 align_up(__s64 bytes, __u32 bits)
{
	return ((bytes + (1LL << bits) - 1) >> bits) << bits;
}

/*
 * allocated_bytes is what stat says as st_blocks * 512. Of an inode on ext4 that
 * holds only while no delayed allocation is pending, such as when it has just been
 * created. xfs and btrfs have their own numbers: xfs_vn_getattr, btrfs_getattr
 * (alike from 5.15 to 7.3, and 5.10 for btrfs).
 * A function of its own, so that what is relocated for a file system that is not
 * there stays behind the question whether it is.
 */
static __noinline __s64 allocated_bytes(struct inode *inode, __u32 method)
{
	__s64 bytes;
	__u32 bits;

	if (method == DISK_XFS && bpf_core_type_exists(struct xfs_inode)) {
		struct xfs_inode *xfs = (void *)inode - bpf_core_field_offset(struct xfs_inode, i_vnode);

		bits = READ(false, READ(false, inode, i_sb), s_blocksize_bits);
		return (BPF_CORE_READ(xfs, i_nblocks) + BPF_CORE_READ(xfs, i_delayed_blks)) << bits;
	}
	bytes = ((__s64)READ(false, inode, i_blocks) << 9) + READ(false, inode, i_bytes);
	if (method == DISK_BTRFS && bpf_core_type_exists(struct btrfs_inode)) {
		struct btrfs_inode *btrfs = (void *)inode - bpf_core_field_offset(struct btrfs_inode, vfs_inode);

		bits = READ(false, READ(false, inode, i_sb), s_blocksize_bits);
		bytes = align_up(bytes, bits);
		/* In a directory that field is something else. */
		if ((READ(false, inode, i_mode) & S_IFMT) == S_IFREG)
			bytes += align_up(BPF_CORE_READ(btrfs, new_delalloc_bytes), bits);
	}
	return bytes;
}

/* allocated_as is the same, read as the verifier lets it be. */
static __always_inline __s64 allocated_as(const bool typed, struct inode *inode, __u32 method)
{
	if (method == DISK_XFS || method == DISK_BTRFS)
		return allocated_bytes(inode, method);
	return ((__s64)READ(typed, inode, i_blocks) << 9) + READ(typed, inode, i_bytes);
}

/*
 * reserved_bytes is what ext4 will allocate later and has told the quota hooks of
 * already: stat adds it to i_blocks (ext4_file_getattr, alike from 5.10 to 7.3).
 */
static __noinline __s64 reserved_bytes(struct inode *inode)
{
	struct ext4_inode_info *ext4;
	struct ext4_sb_info *sb;

	if (!bpf_core_type_exists(struct ext4_inode_info) || BPF_CORE_READ(inode, i_sb, s_magic) != EXT4_SUPER_MAGIC)
		return 0;
	ext4 = (void *)inode - bpf_core_field_offset(struct ext4_inode_info, vfs_inode);
	sb = BPF_CORE_READ(inode, i_sb, s_fs_info);
	return (__s64)BPF_CORE_READ(ext4, i_reserved_data_blocks)
	       << (BPF_CORE_READ(sb, s_cluster_bits) + BPF_CORE_READ(inode, i_sb, s_blocksize_bits));
}
