/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The maps and variables that programs and tracer share, and the bounds of each. */
#pragma once

#define RING_BYTES (8 << 20)
#define MAX_LAYERS 4096

struct counter_map {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, struct counter_key);
	__type(value, struct counter);
};

/* Two tables of counters: userspace owns the one that is not in `counters`. */
struct counter_map counters_a SEC(".maps");
struct counter_map counters_b SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct counter_map);
} counters SEC(".maps") = {
	.values = { &counters_a },
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 20);
	__type(key, struct file_key);
	__type(value, struct file_entry);
} files SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_LAYERS);
	__type(key, __u32);
	__type(value, struct layer);
} layers SEC(".maps");

/* Threads inside ovl_copy_up_one, with the dentry that is being copied up. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, __u64);
} copy_ups SEC(".maps");

/* Threads inside ovl_do_remove, and whether it has left a whiteout. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, __u8);
} removals SEC(".maps");

/* Processes and executables that userspace has been told of. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct process_id);
	__type(value, __u8);
} processes SEC(".maps");

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
volatile __u32 armed = 0;
/* Threads in ovl_copy_up_one now: spares everyone else a lookup. */
volatile __s64 copying_up = 0;

/* Types that only the ring and the tracer's own calls use: keeps them in the BTF. */
const struct counter_record *counter_record_type __attribute__((unused));
const struct file_record *file_record_type __attribute__((unused));
const struct file_record_short *file_record_short_type __attribute__((unused));
const struct process_record *process_record_type __attribute__((unused));
const struct executable_record *executable_record_type __attribute__((unused));
const struct covered_record *covered_record_type __attribute__((unused));
const struct track_args *track_args_type __attribute__((unused));
const struct settle_args *settle_args_type __attribute__((unused));

static __always_inline bool device_watched(__u32 device)
{
	__u32 watched = watched_device;

	return watched == device || watched == ANY_DEVICE;
}

/* find looks an inode up in the ledger. */
static __always_inline struct file_entry *find(struct inode *inode, struct file_key *key)
{
	if (!inode)
		return NULL;
	key->device = BPF_CORE_READ(inode, i_sb, s_dev);
	if (!device_watched(key->device))
		return NULL;
	key->inode = BPF_CORE_READ(inode, i_ino);
	key->pad = 0;
	return bpf_map_lookup_elem(&files, key);
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
	if (armed) {
		armed = 0;
		return BPF_RB_FORCE_WAKEUP;
	}
	if (bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA) > RING_BYTES / 4)
		return BPF_RB_FORCE_WAKEUP;
	return BPF_RB_NO_WAKEUP;
}
