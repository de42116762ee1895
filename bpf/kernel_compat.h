/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Where kernels differ, or where a layout is relied on that BTF does not spell out. */
#pragma once

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
	return upper ? BPF_CORE_READ(upper, d_inode) : NULL;
}

/*
 * allocated_bytes is what st_blocks * 512 says of an inode without delayed
 * allocation pending. That holds for an inode that has just been created.
 */
static __always_inline __s64 allocated_bytes(struct inode *inode)
{
	return ((__s64)BPF_CORE_READ(inode, i_blocks) << 9) + BPF_CORE_READ(inode, i_bytes);
}
