/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The maps and variables that programs and tracer share, and the bounds of each. */
#pragma once

#define RING_BYTES (4 << 20)
#define MAX_LAYERS 4096

/*
 * A table of counters is filled from its beginning in each interval, and read as
 * memory. A counter is found by the slot that its file's page remembers, or, where
 * several processes write a file, that `others` does; a wrong slot shows by the key.
 * Two counters of one key do no harm: they are added up.
 */
struct counter_table {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 65536);
	__type(key, __u32);
	__type(value, struct counter);
};

/* Two of them: userspace owns the one that is not in `counters`. */
struct counter_table counters_a SEC(".maps");
struct counter_table counters_b SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct counter_table);
} counters SEC(".maps") = {
	.values = { &counters_a },
};

/* Slots of counters that are not in their file's page. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct counter_key);
	__type(value, __u32);
} others SEC(".maps");

/*
 * Where a file that was written in place was counted, by its inode's number: most such
 * writes need no look into the ledger. check is the page's generation, mixed with the
 * device, so that one comparison with the counter's tells whose slot it is, whatever two
 * processors may have put here at a time.
 */
#define RECENT 1024
struct recent {
	__u64 check;
	__u64 slot; /* 0 for none */
};
volatile struct recent recent[RECENT];

#ifdef OLD_KERNEL
/* Slots that are taken, of both tables (see take_slot): the second one's have CLAIM_B. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 131072);
	__type(key, __u32);
	__type(value, __u8);
} claims SEC(".maps");
#endif

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 20);
	__type(key, struct file_key);
	__type(value, struct file_entry);
} files SEC(".maps");

/* Userspace reads it as memory, since it does so for every layer in each interval. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, MAX_LAYERS);
	__type(key, __u32);
	__type(value, struct layer);
} layers SEC(".maps");

/*
 * Who began the asynchronous writes of overlayfs, by its kiocb. Each use of one begins
 * with an update, so that it does no harm if some stay: those that ended at once.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct process_id);
} queued SEC(".maps");

/* Processes that userspace has been told of (1), or is about to be (0). */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct process_id);
	__type(value, __u8);
} processes SEC(".maps");

/* Some of those that it has been told of, by pid: spares the lookup. */
#define TOLD 256
volatile struct process_id told[TOLD];

/* Executables that it has been told of. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct executable_key);
	__type(value, __u8);
} executables SEC(".maps");

/* As many elements as a path may have components; its values are not used. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PATH_COMPONENTS);
	__type(key, __u32);
	__type(value, __u64);
} path_steps SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, RING_BYTES);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct loss_counts);
} losses SEC(".maps");

/* The one device that holds watched layers, 0 for none, ANY_DEVICE for several. */
#define ANY_DEVICE 0xffffffff
volatile __u32 watched_device = 0;
/* Set by userspace before it sleeps: the next record must wake it. */
volatile __s64 armed = 0;

/* Types that only the ring and the tracer's own calls use: keeps them in the BTF. */
const struct file_record *file_record_type __attribute__((unused));
const struct file_record_short *file_record_short_type __attribute__((unused));
const struct process_record *process_record_type __attribute__((unused));
const struct executable_record *executable_record_type __attribute__((unused));
const struct covered_record *covered_record_type __attribute__((unused));
const struct track_args *track_args_type __attribute__((unused));
const struct settle_args *settle_args_type __attribute__((unused));
const struct untrack_args *untrack_args_type __attribute__((unused));
const struct turn_args *turn_args_type __attribute__((unused));

static __always_inline bool device_watched(__u32 device)
{
	__u32 watched = watched_device;

	return watched == device || watched == ANY_DEVICE;
}

/* Set with the first layer that is a directory in a subvolume of btrfs as it is. */
volatile __u32 subvolumes = 0;

/*
 * subvolume_device is what stat gives as the device of an inode on btrfs, 0 on other
 * file systems: inode numbers repeat between subvolumes.
 */
static __noinline __u32 subvolume_device(struct inode *inode)
{
	struct btrfs_inode *btrfs;

	if (!inode || !bpf_core_type_exists(struct btrfs_inode) ||
	    READ(false, READ(false, inode, i_sb), s_magic) != BTRFS_SUPER_MAGIC)
		return 0;
	btrfs = (void *)inode - bpf_core_field_offset(struct btrfs_inode, vfs_inode);
	return BPF_CORE_READ(btrfs, root, anon_dev);
}

/* find_as looks an inode up in the ledger; typed as in READ. */
static __always_inline struct file_entry *find_as(const bool typed, struct inode *inode, struct file_key *key)
{
	struct file_entry *file;
	__u32 device, within;

	if (!inode)
		return NULL;
	key->device = READ(typed, READ(typed, inode, i_sb), s_dev);
	if (!device_watched(key->device))
		return NULL;
	key->inode = READ(typed, inode, i_ino);
	key->pad = 0;
	file = bpf_map_lookup_elem(&files, key);
	if (file || !subvolumes)
		return file;
	within = subvolume_device(inode);
	if (!within)
		return NULL;
	device = key->device;
	key->device = within;
	file = bpf_map_lookup_elem(&files, key);
	if (!file)
		key->device = device;
	return file;
}

static __always_inline struct file_entry *find(struct inode *inode, struct file_key *key)
{
	return find_as(false, inode, key);
}

static __always_inline struct layer *layer_of(__u32 id)
{
	return bpf_map_lookup_elem(&layers, &id);
}

static __always_inline struct loss_counts *lost_records(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&losses, &zero);
}

/*
 * Records do not wake userspace, which collects once an interval: but for the
 * first one after it went to sleep, and where the ring might fill before then.
 */
static __always_inline __u64 wake_flags(void)
{
	/* A barrier between this and the reservation before it, as arm has one. */
	if (exchange((__s64 *)&armed, 0))
		return BPF_RB_FORCE_WAKEUP;
	if (bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA) > RING_BYTES / 4)
		return BPF_RB_FORCE_WAKEUP;
	return BPF_RB_NO_WAKEUP;
}
