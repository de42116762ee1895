/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the programs and the tracer exchange: maps' keys and values, ring records. */
#pragma once

#define NAME_MAX 255
#define SHORT_NAME 40
#define PATH_BYTES 1024
#define PATH_COMPONENTS 64
#define COMM_LEN 16

/* Kept in step with event.Cause* of the tracer. */
enum cause {
	CAUSE_WRITE = 1 << 0,
	CAUSE_COPY_UP = 1 << 1,
	CAUSE_TRUNCATE = 1 << 2,
	CAUSE_ALLOCATE = 1 << 3,
	CAUSE_MMAP = 1 << 4,
	CAUSE_CLONE = 1 << 5,
	CAUSE_CREATE = 1 << 6,
	CAUSE_DELETE = 1 << 7,
	CAUSE_RENAME = 1 << 8,
	CAUSE_METADATA = 1 << 9,
};

/* Kept in step with event.File* of the tracer. */
enum file_op {
	FILE_CREATED = 1,
	FILE_COPIED_UP = 2,
	FILE_LINKED = 3,
	FILE_RENAMED = 4,
	FILE_UNLINKED = 5,
	FILE_WHITEOUT = 6,
	FILE_GONE = 7,
};

enum record_kind {
	RECORD_FILE = 1,
	RECORD_WAKE = 2,
	RECORD_PROCESS = 3,
	RECORD_EXECUTABLE = 4,
	RECORD_COVERED = 5,
};

/* A process as event.ProcessID: a program image of a thread group. */
struct process_id {
	__u32 pid;
	__u32 exec;
	__u64 start_ns;
};

/* An inode of an upper file system. */
struct file_key {
	__u64 inode;
	__u32 device;
	__u32 pad;
};

/*
 * PENDING: overlayfs is still preparing it in its work directory (copy-up).
 * LIVE: it has a name in the layer and counts.
 * DELETED: it lost its last name, or never had one, but is still open.
 * SHELVED: it lost its last name in the layer, and has one in overlayfs's index
 * (index=on), from which it comes back when another name of the image's file is used.
 */
enum file_state {
	STATE_PENDING = 0,
	STATE_LIVE = 1,
	STATE_DELETED = 2,
	STATE_SHELVED = 3,
};

/*
 * Set in the generation of what joins a layer while it is watched; pages that track
 * opens have numbers without it.
 */
#define BORN (1ULL << 63)

/* A size that is not known yet: a baseline file between Track and Settle. */
#define SIZE_UNKNOWN (-1)

/*
 * How to know an inode's allocated bytes.
 * QUOTA: ext2 to ext4 tell each change to the quota hooks, which are summed up.
 * The others are read, as stat reads them, whenever they may have changed.
 */
enum disk_method {
	DISK_QUOTA = 0,
	DISK_BLOCKS = 1, /* i_blocks */
	DISK_XFS = 2,
	DISK_BTRFS = 3,
};

/* Allocated bytes that were not read yet: the same for disk methods that read. */
#define DISK_UNKNOWN (-1)

/*
 * The ledger's page for one inode. size is i_size as last accounted; disk are
 * the allocated bytes that count into the layer; aside are those that do not,
 * because the inode is not live. One of disk and aside is zero.
 */
struct file_entry {
	__u64 generation;
	__s64 size;
	__s64 disk;
	__s64 aside;
	__s64 base_size; /* what settle, or a hook before it, took as the baseline */
	__s64 base_disk; /* what settle took */
	__u64 disk_events; /* changes of disk that the file system told of */
	__u64 other_events; /* all others of size and disk */
	struct process_id writer; /* the last process that changed the file */
	__u32 layer;
	__u32 state;
	__u32 mode;
	__u8 settled;
	__u8 plain; /* no overlay is above it */
	__u16 disk_method;
	__u32 slot; /* where in a table one of its counters was last */
	__u32 pad;
};

/* device is 0 for files of the layer, else that of a file outside of it. */
struct counter_key {
	__u64 inode;
	__u64 generation;
	struct process_id process;
	__u32 layer;
	__u32 device;
};

/*
 * What a process changed of a file. Slot 0 of a table is no counter: its writes say
 * how many slots after it are taken, or were wanted when the table was full.
 */
struct counter {
	struct counter_key key;
	__s64 size;
	__s64 disk;
	__s64 copy_up;
	__u64 written;
	__u64 writes;
	__s64 file_size; /* outside the layer what it is, in the layer what counted_again takes for booked */
	__u32 causes;
	__u32 announced; /* to userspace: see below */
};

#define ANNOUNCED (1 << 0) /* that there is something to count */
#define ANNOUNCED_PROCESS (1 << 1) /* who does it */

struct layer {
	__s64 open_deleted;
	__s64 overflow_size;
	__s64 overflow_disk;
	__s64 overflow_copy_up;
	__u64 overflow_written;
	__u64 overflow_events;
	__u64 covered_lost; /* writes outside of the layer for which there was no counter */
	__u64 untracked; /* files for which the ledger had no room */
	__u64 strays; /* inodes without a page that were moved to where pages are */
	__s32 mounts;
	__u32 pad;
};

/* Counts of records that did not fit the ring, by kind, and the like. */
struct loss_counts {
	__u64 file_records;
	__u64 process_records;
	__u64 long_paths;
	__u64 calls; /* whose arguments there was no room for */
};

/* Says nothing but that there is something to collect. */
struct wake_record {
	__u32 kind;
	__u32 pad;
};

struct file_record {
	__u32 kind;
	__u32 op;
	__u32 layer;
	__u32 mode;
	__u64 inode;
	__u64 generation;
	__u64 parent_inode;
	__u64 parent_generation;
	struct process_id process;
	__u32 name_len;
	char name[NAME_MAX + 1];
};

/* The same with a shorter name, so that most records take a third of the room. */
struct file_record_short {
	__u32 kind;
	__u32 op;
	__u32 layer;
	__u32 mode;
	__u64 inode;
	__u64 generation;
	__u64 parent_inode;
	__u64 parent_generation;
	struct process_id process;
	__u32 name_len;
	char name[SHORT_NAME];
};

/* An executable by its inode, so that its path crosses once, not per process. */
struct executable_key {
	__u64 inode;
	__u64 dentry;
	__u32 device;
	__u32 pad;
};

struct process_record {
	__u32 kind;
	__u32 parent_pid;
	struct process_id process;
	__u64 cgroup_id;
	struct executable_key executable;
	char comm[COMM_LEN];
};

/* The path's components, the last one first, each ended by a NUL. */
struct executable_record {
	__u32 kind;
	__u32 length;
	struct executable_key executable;
	char path[PATH_BYTES + NAME_MAX + 1];
};

/* Where a file outside the layer is, in the writer's mount namespace. */
struct covered_record {
	__u32 kind;
	__u32 length;
	struct file_key file;
	char path[PATH_BYTES + NAME_MAX + 1];
};

/* Arguments of the programs that the tracer runs itself (BPF_PROG_TEST_RUN). */
struct track_args {
	__u64 device;
	__u64 inode;
	__u64 generation;
	__u64 layer;
	__u64 mode;
	__u64 disk_method;
	__u64 plain;
};

/* size is SIZE_UNKNOWN where it remains as it is, and for directories, which have none. */
struct turn_args {
	__u64 device;
	__u64 inode;
	__u64 generation;
	__u64 events;
	__s64 seen_size;
	__s64 seen_disk;
	__s64 size;
	__s64 allocated;
};

/* What look says of an inode that the tracer has open, as the descriptor fd. */
struct look_record {
	__u32 fd;
	__u32 steady; /* nobody was allocating or freeing */
	struct file_key file;
	struct file_entry page;
	__s64 allocated; /* st_blocks * 512 */
};

struct untrack_args {
	__u64 device;
	__u64 inode;
	__u64 generation;
};

struct settle_args {
	__u64 device;
	__u64 inode;
	__u64 generation;
	__s64 size;
	__s64 allocated;
	__u64 disk_events;
	__s64 disk;
};
