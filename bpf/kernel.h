/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What these programs know of the kernel: only the fields that they read, each
 * relocated against the running kernel's BTF when the programs are loaded
 * (CO-RE), so that neither a vmlinux.h nor a kernel version is built in.
 */
#pragma once

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef signed char __s8;
typedef short __s16;
typedef int __s32;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u32 __wsum;
typedef _Bool bool;
#define true 1
#define false 0
#define NULL ((void *)0)

/* Parts of the BPF system call's interface. */
enum {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_LRU_HASH = 9,
	BPF_MAP_TYPE_ARRAY_OF_MAPS = 12,
	BPF_MAP_TYPE_RINGBUF = 27,
	BPF_MAP_TYPE_TASK_STORAGE = 29,
};

enum {
	BPF_ANY = 0,
	BPF_NOEXIST = 1,
	BPF_EXIST = 2,
};

enum {
	BPF_LOCAL_STORAGE_GET_F_CREATE = 1 << 0,
};

enum {
	BPF_F_NO_PREALLOC = 1 << 0,
	BPF_F_MMAPABLE = 1 << 10,
};

enum {
	BPF_RB_NO_WAKEUP = 1,
	BPF_RB_FORCE_WAKEUP = 2,
	BPF_RB_AVAIL_DATA = 0,
};

/* Constants that BTF does not carry; none has changed since 5.10. */
#define S_IFMT 00170000
#define S_IFDIR 0040000
#define S_IFCHR 0020000
#define S_IFREG 0100000
#define PF_KTHREAD 0x00200000
#define OVERLAYFS_SUPER_MAGIC 0x794c7630
#define BTRFS_SUPER_MAGIC 0x9123683e
#define EXT4_SUPER_MAGIC 0xef53
#define ATTR_SIZE (1 << 3)
#define FALLOC_FL_PUNCH_HOLE 0x02
#define RENAME_EXCHANGE (1 << 1)
#define EIOCBQUEUED 529
#define XFS_ILOCK_EXCL (1 << 2)
#define OVL_INDEX (1 << 2) /* overlayfs's own, of struct ovl_inode; since 4.15 */

#define CORE __attribute__((preserve_access_index))

struct qstr {
	__u32 len;
	const unsigned char *name;
} CORE;

struct inode;
struct super_block;

struct dentry {
	struct dentry *d_parent;
	struct qstr d_name;
	struct inode *d_inode;
	struct super_block *d_sb;
} CORE;

struct super_block {
	__u32 s_dev;
	unsigned char s_blocksize_bits;
	unsigned long s_magic;
	struct dentry *s_root;
	void *s_fs_info;
} CORE;

struct inode {
	__u16 i_mode;
	struct super_block *i_sb;
	unsigned long i_ino;
	unsigned int i_nlink;
	__s64 i_size;
	__u16 i_bytes;
	__u64 i_blocks;
} CORE;

struct atomic_count {
	__s64 counter;
} CORE;

struct rw_semaphore {
	struct atomic_count count;
} CORE;

struct ext4_inode_info {
	struct rw_semaphore xattr_sem;
	struct rw_semaphore i_data_sem;
	unsigned int i_reserved_data_blocks;
	struct inode vfs_inode;
} CORE;

struct ext4_sb_info {
	unsigned int s_cluster_bits;
} CORE;

struct xfs_inode {
	__u64 i_nblocks;
	__u64 i_delayed_blks;
	struct inode i_vnode;
} CORE;

struct btrfs_root {
	__u32 anon_dev;
} CORE;

struct btrfs_inode {
	struct btrfs_root *root;
	__u64 new_delalloc_bytes;
	struct inode vfs_inode;
} CORE;

struct vfsmount {
	struct dentry *mnt_root;
} CORE;

struct mount {
	struct mount *mnt_parent;
	struct dentry *mnt_mountpoint;
	struct vfsmount mnt;
} CORE;

struct path {
	struct vfsmount *mnt;
	struct dentry *dentry;
} CORE;

struct file {
	struct inode *f_inode;
	struct path f_path;
} CORE;

struct kiocb {
	struct file *ki_filp;
	__s64 ki_pos;
	void *ki_complete;
	int ki_flags;
} CORE;

struct address_space {
	struct inode *host;
} CORE;

struct iattr {
	unsigned int ia_valid;
} CORE;

struct vm_area_struct {
	unsigned long vm_flags;
	struct file *vm_file;
} CORE;

struct vm_fault {
	struct vm_area_struct *vma;
} CORE;

struct mm_struct {
	struct file *exe_file;
} CORE;

struct kernfs_node {
	__u64 id;
} CORE;

struct cgroup;

struct cgroup_subsys_state {
	struct cgroup *cgroup;
	struct cgroup_subsys_state *parent;
} CORE;

struct cgroup {
	struct cgroup_subsys_state self;
	struct kernfs_node *kn;
} CORE;

struct css_set {
	struct cgroup_subsys_state *subsys[1]; /* by controller, for as many as there are */
	struct cgroup *dfl_cgrp;
} CORE;

struct task_struct {
	struct css_set *cgroups;
	void *stack;
	unsigned int flags;
	int tgid;
	__u64 start_boottime;
	__u64 self_exec_id;
	struct task_struct *real_parent;
	struct task_struct *group_leader;
	struct mm_struct *mm;
	char comm[16];
} CORE;

struct seq_file;

struct bpf_iter_meta {
	struct seq_file *seq;
} CORE;

/* The context of an iterator over the files that processes have open. */
struct bpf_iter__task_file {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	__u32 fd;
	struct file *file;
} CORE;
