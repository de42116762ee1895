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

#define RING_BYTES (8 << 20)
#define MAX_LAYERS 4096

char LICENSE[] SEC("license") = "Dual BSD/GPL";

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

/* What one operation changed. */
struct change {
	__s64 size;
	__s64 disk;
	__s64 copy_up;
	__u64 written;
	__u32 writes;
	__u32 causes;
};

/* ---- small helpers ---------------------------------------------------- */

static __always_inline bool device_watched(__u32 device)
{
	__u32 watched = watched_device;

	return watched == device || watched == ANY_DEVICE;
}

/*
 * find looks an inode up in the ledger. It comes in two shapes: for pointers
 * that the verifier knows as kernel objects (arguments of fentry programs and
 * what they point to), whose fields are loaded directly, and for all others.
 */
static __always_inline struct file_entry *find_typed(struct inode *inode, struct file_key *key)
{
	key->device = inode->i_sb->s_dev;
	if (!device_watched(key->device))
		return NULL;
	key->inode = inode->i_ino;
	key->pad = 0;
	return bpf_map_lookup_elem(&files, key);
}

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

/* ---- who -------------------------------------------------------------- */

/* The thread group at work, by its leader: workers of io_uring are its threads. */
static __always_inline void current_process(struct process_id *id)
{
	struct task_struct *leader = BPF_CORE_READ((struct task_struct *)bpf_get_current_task(),
						   group_leader);

	id->pid = bpf_get_current_pid_tgid() >> 32;
	id->exec = BPF_CORE_READ(leader, self_exec_id);
	id->start_ns = BPF_CORE_READ(leader, start_boottime);
}

static __always_inline bool in_kernel_thread(void)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();

	return BPF_CORE_READ(task, flags) & PF_KTHREAD;
}

/*
 * actor finds who is to be charged. Work that the kernel finishes by itself
 * (write-back, the end of asynchronous I/O) belongs to the file's last writer.
 */
static __always_inline bool actor(struct process_id *id, struct file_entry *file)
{
	if (in_kernel_thread()) {
		*id = file->writer;
		return false;
	}
	current_process(id);
	return true;
}

/*
 * file_path writes the components of an open file's path, the last one first,
 * across mounts up to the root of its mount namespace.
 */
static __always_inline __u32 file_path(struct file *file, char *buffer)
{
	struct vfsmount *mnt = BPF_CORE_READ(file, f_path.mnt);
	struct dentry *dentry = BPF_CORE_READ(file, f_path.dentry);
	__u32 length = 0;
	int i;

	for (i = 0; i < PATH_COMPONENTS; i++) {
		struct dentry *parent = BPF_CORE_READ(dentry, d_parent);
		long n;

		if (dentry == BPF_CORE_READ(mnt, mnt_root) || dentry == parent) {
			struct mount *mount = (void *)mnt - bpf_core_field_offset(struct mount, mnt);
			struct mount *above = BPF_CORE_READ(mount, mnt_parent);

			if (above == mount)
				return length;
			dentry = BPF_CORE_READ(mount, mnt_mountpoint);
			mnt = (void *)above + bpf_core_field_offset(struct mount, mnt);
			continue;
		}
		if (length > PATH_BYTES - 1)
			break;
		/* The mask only tells the verifier what the line above has ensured. */
		length &= PATH_BYTES - 1;
		barrier_var(length);
		n = bpf_probe_read_kernel_str(buffer + length, NAME_MAX + 1,
					      BPF_CORE_READ(dentry, d_name.name));
		if (n <= 0)
			return length;
		length += n;
		dentry = parent;
	}
	struct loss_counts *lost = lost_records();
	if (lost)
		__sync_fetch_and_add(&lost->long_paths, 1);
	return 0;
}

static __noinline int announce_executable(struct executable_key *key, struct file *exe)
{
	struct executable_record *record;
	__u8 one = 1;

	if (bpf_map_update_elem(&executables, key, &one, BPF_NOEXIST))
		return 0;
	record = bpf_ringbuf_reserve(&events, sizeof(*record), 0);
	if (!record) {
		bpf_map_delete_elem(&executables, key);
		return 0;
	}
	record->kind = RECORD_EXECUTABLE;
	record->executable = *key;
	record->length = file_path(exe, record->path);
	bpf_ringbuf_submit(record, wake_flags());
	return 0;
}

/* Tells userspace who the current process is, once. */
static __noinline int announce_process(struct process_id *id)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct executable_key executable = {};
	struct process_record *record;
	struct task_struct *leader;
	struct file *exe;
	__u8 one = 1;

	if (bpf_map_lookup_elem(&processes, id))
		return 0;
	if (bpf_map_update_elem(&processes, id, &one, BPF_NOEXIST))
		return 0;

	exe = BPF_CORE_READ(task, mm, exe_file);
	if (exe) {
		struct inode *inode = BPF_CORE_READ(exe, f_inode);

		executable.device = BPF_CORE_READ(inode, i_sb, s_dev);
		executable.inode = BPF_CORE_READ(inode, i_ino);
		executable.dentry = (__u64)BPF_CORE_READ(exe, f_path.dentry);
		announce_executable(&executable, exe);
	}

	record = bpf_ringbuf_reserve(&events, sizeof(*record), 0);
	if (!record) {
		struct loss_counts *lost = lost_records();

		if (lost)
			__sync_fetch_and_add(&lost->process_records, 1);
		bpf_map_delete_elem(&processes, id);
		return 0;
	}
	leader = BPF_CORE_READ(task, group_leader);
	record->kind = RECORD_PROCESS;
	record->parent_pid = BPF_CORE_READ(leader, real_parent, tgid);
	record->process = *id;
	record->cgroup_id = bpf_get_current_cgroup_id();
	record->executable = executable;
	bpf_probe_read_kernel(record->comm, sizeof(record->comm), leader->comm);
	bpf_ringbuf_submit(record, wake_flags());
	return 0;
}

/* ---- booking ---------------------------------------------------------- */

static __always_inline void overflow(__u32 layer_id, struct change *change)
{
	struct layer *layer = layer_of(layer_id);

	if (!layer)
		return;
	__sync_fetch_and_add(&layer->overflow_size, change->size);
	__sync_fetch_and_add(&layer->overflow_disk, change->disk);
	__sync_fetch_and_add(&layer->overflow_copy_up, change->copy_up);
	__sync_fetch_and_add(&layer->overflow_written, change->written);
	__sync_fetch_and_add(&layer->overflow_events, 1);
}

/*
 * new_counter enters a (file, process) of this interval and announces it, so
 * that userspace reads what changed and nothing else. A record that does not fit
 * is only counted: userspace then reads the whole table.
 */
static __noinline struct counter *new_counter(void *table, struct counter_key *key)
{
	struct counter zero = {};
	struct counter_record *record;

	if (bpf_map_update_elem(table, key, &zero, BPF_NOEXIST) == 0) {
		record = bpf_ringbuf_reserve(&events, sizeof(*record), 0);
		if (record) {
			record->kind = RECORD_COUNTER;
			record->key = *key;
			bpf_ringbuf_submit(record, wake_flags());
		} else {
			struct loss_counts *lost = lost_records();

			if (lost)
				__sync_fetch_and_add(&lost->counter_records, 1);
		}
	}
	return bpf_map_lookup_elem(table, key);
}

/* counter_of finds or enters the counter of a key; NULL if there is no room. */
static __always_inline struct counter *counter_of(struct counter_key *key)
{
	struct counter *counter;
	__u32 zero = 0;
	void *table;

	table = bpf_map_lookup_elem(&counters, &zero);
	if (!table)
		return NULL;
	counter = bpf_map_lookup_elem(table, key);
	if (counter)
		return counter;
	if (!in_kernel_thread())
		announce_process(&key->process);
	return new_counter(table, key);
}

static __noinline int book(struct file_entry *file, struct file_key *where,
			   struct process_id *process, struct change *change)
{
	struct counter_key key = {};
	struct counter *counter;

	if (!file || !where || !process || !change)
		return 0;
	key.inode = where->inode;
	key.generation = file->generation;
	key.process = *process;
	key.layer = file->layer;
	counter = counter_of(&key);
	if (!counter) {
		overflow(key.layer, change);
		return 0;
	}
	if (change->size)
		__sync_fetch_and_add(&counter->size, change->size);
	if (change->disk)
		__sync_fetch_and_add(&counter->disk, change->disk);
	if (change->copy_up)
		__sync_fetch_and_add(&counter->copy_up, change->copy_up);
	if (change->writes) {
		__sync_fetch_and_add(&counter->written, change->written);
		__sync_fetch_and_add(&counter->writes, change->writes);
	}
	/* Several CPUs may race to set the same few bits; a bit never clears. */
	if ((counter->causes & change->causes) != change->causes)
		__sync_fetch_and_or(&counter->causes, change->causes);
	return 0;
}

static __always_inline void aside_changed(struct file_entry *file, __s64 bytes)
{
	struct layer *layer;

	if (file->state != STATE_DELETED)
		return;
	layer = layer_of(file->layer);
	if (layer)
		__sync_fetch_and_add(&layer->open_deleted, bytes);
}

/*
 * disk_changed books bytes that the file system allocated to an inode or freed.
 * Write-back may run beside an unlink or a link: whichever of the two comes
 * second sees the other's state and carries the bytes over, so none is counted
 * twice or left behind.
 */
static __always_inline void disk_changed(struct file_entry *file, struct file_key *key, __s64 bytes)
{
	struct change change = { .disk = bytes };
	struct process_id process;
	__u32 state = file->state;
	__s64 moved;

	__sync_fetch_and_add(&file->events, 1);
	if (actor(&process, file) && state == STATE_LIVE)
		file->writer = process;
	if (state == STATE_LIVE) {
		__sync_fetch_and_add(&file->disk, bytes);
		book(file, key, &process, &change);
		if (file->state == STATE_LIVE)
			return;
		moved = __sync_lock_test_and_set(&file->disk, 0);
		change.disk = -moved;
		book(file, key, &process, &change);
		__sync_fetch_and_add(&file->aside, moved);
		aside_changed(file, moved);
		return;
	}
	__sync_fetch_and_add(&file->aside, bytes);
	if (state == STATE_DELETED)
		aside_changed(file, bytes);
	if (file->state != STATE_LIVE)
		return;
	moved = __sync_lock_test_and_set(&file->aside, 0);
	if (!moved)
		return;
	__sync_fetch_and_add(&file->disk, moved);
	change.disk = moved;
	book(file, key, &process, &change);
}

/*
 * size_changed compares i_size with the ledger and books the difference beside
 * what else happened. It is called where overlayfs holds the lock of its inode,
 * so that two writers of a file are told apart.
 */
static __always_inline void size_changed(struct file_entry *file, struct file_key *key,
					 __s64 now, struct change *change)
{
	struct process_id process;
	__s64 before = file->size;

	if (file->state == STATE_PENDING)
		return;
	if (before != now && (file->mode & S_IFMT) != S_IFDIR) {
		before = __sync_lock_test_and_set(&file->size, now);
		if (before == SIZE_UNKNOWN)
			file->base_size = now;
		else if (file->state == STATE_LIVE)
			change->size = now - before;
		__sync_fetch_and_add(&file->events, 1);
	}
	if (actor(&process, file))
		file->writer = process;
	book(file, key, &process, change);
}

/* ---- the layer's tree ------------------------------------------------- */

/* What emit_file sends. */
struct file_event {
	__u32 op;
	__u32 layer;
	__u32 mode;
	__u32 pad;
	__u64 inode;
	__u64 generation;
	__u64 parent_inode;
	__u64 parent_generation;
	struct process_id process;
	struct dentry *dentry; /* its name; NULL for none */
};

#define FILL_FILE_RECORD(record, event, length)                     \
	do {                                                        \
		(record)->kind = RECORD_FILE;                       \
		(record)->op = (event)->op;                         \
		(record)->layer = (event)->layer;                   \
		(record)->mode = (event)->mode;                     \
		(record)->inode = (event)->inode;                   \
		(record)->generation = (event)->generation;         \
		(record)->parent_inode = (event)->parent_inode;     \
		(record)->parent_generation = (event)->parent_generation; \
		(record)->process = (event)->process;               \
		(record)->name_len = (length);                      \
	} while (0)

static __noinline int emit_file(struct file_event *event)
{
	const unsigned char *name = NULL;
	struct file_record_short *brief;
	struct dentry *dentry;
	struct file_record *full;
	struct loss_counts *lost;
	__u32 length = 0;

	if (!event)
		return 0;
	dentry = event->dentry;
	if (dentry) {
		length = BPF_CORE_READ(dentry, d_name.len);
		name = BPF_CORE_READ(dentry, d_name.name);
	}
	if (length <= SHORT_NAME) {
		brief = bpf_ringbuf_reserve(&events, sizeof(*brief), 0);
		if (!brief)
			goto full;
		FILL_FILE_RECORD(brief, event, length);
		bpf_probe_read_kernel(brief->name, length, name);
		bpf_ringbuf_submit(brief, wake_flags());
		return 0;
	}
	if (length > NAME_MAX)
		length = NAME_MAX;
	full = bpf_ringbuf_reserve(&events, sizeof(*full), 0);
	if (!full)
		goto full;
	FILL_FILE_RECORD(full, event, length);
	bpf_probe_read_kernel(full->name, length, name);
	bpf_ringbuf_submit(full, wake_flags());
	return 0;
full:
	lost = lost_records();
	if (lost)
		__sync_fetch_and_add(&lost->file_records, 1);
	return 0;
}

/* parent_of finds the ledger's page of the directory that a dentry is in. */
static __always_inline struct file_entry *parent_of(struct dentry *dentry, struct file_key *key)
{
	return find(upper_inode(BPF_CORE_READ(dentry, d_parent, d_inode)), key);
}

/* named sends where a file of the ledger can be found from now on. */
static __always_inline void named(__u32 op, struct file_entry *file, struct file_key *key,
				  struct dentry *dentry, struct process_id *process)
{
	struct file_event event = {};
	struct file_key parent_key = {};
	struct file_entry *parent = parent_of(dentry, &parent_key);

	if (!parent)
		return;
	event.op = op;
	event.layer = file->layer;
	event.mode = file->mode;
	event.inode = key->inode;
	event.generation = file->generation;
	event.parent_inode = parent_key.inode;
	event.parent_generation = parent->generation;
	event.process = *process;
	event.dentry = dentry;
	emit_file(&event);
}

static __always_inline void untracked(__u32 layer_id)
{
	struct layer *layer = layer_of(layer_id);

	if (layer)
		__sync_fetch_and_add(&layer->untracked, 1);
}

/* Fresh page of an inode that joins the layer of its parent directory. */
static __always_inline void new_entry(struct file_entry *entry, __u32 layer, __u32 mode, __u32 state)
{
	__builtin_memset(entry, 0, sizeof(*entry));
	/* Inode numbers are reused; the time at which one joins tells its lives apart. */
	entry->generation = bpf_ktime_get_ns();
	entry->layer = layer;
	entry->mode = mode;
	entry->state = state;
	entry->settled = 1;
}

/* published: a page has become part of the layer; books all that it holds. */
static __always_inline void published(struct file_entry *file, struct file_key *key, __s64 size,
				      struct process_id *process, __u32 cause)
{
	struct change change = { .causes = cause };
	bool directory = (file->mode & S_IFMT) == S_IFDIR;

	if (!directory) {
		file->size = size;
		change.size = size;
	}
	file->writer = *process;
	file->state = STATE_LIVE;
	change.disk = __sync_lock_test_and_set(&file->aside, 0);
	__sync_fetch_and_add(&file->disk, change.disk);
	__sync_fetch_and_add(&file->events, 1);
	if (cause == CAUSE_COPY_UP)
		change.copy_up = directory ? change.disk : size;
	book(file, key, process, &change);
}

/* ---- creation --------------------------------------------------------- */

/*
 * ovl_instantiate(dentry, inode, newdentry, hardlink[, tmpfile since 6.12]) ties
 * a new upper inode, or a further name of one, to an overlay dentry. Its parent
 * directory is locked and nobody else can have found the inode yet.
 */
SEC("fentry/ovl_instantiate")
int BPF_PROG(instantiate_entry, struct dentry *dentry, struct inode *overlay,
	     struct dentry *upper, bool hardlink)
{
	struct file_key key = {}, parent_key = {};
	struct file_entry *file, *parent, fresh;
	struct inode *inode = upper->d_inode;
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
	named(FILE_CREATED, file, &key, dentry, &process);
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
SEC("fentry/ovl_copy_up_one")
int BPF_PROG(copy_up_entry, struct dentry *parent, struct dentry *dentry, int flags)
{
	struct file_key key = {};
	__u64 thread, subject = (__u64)dentry;

	if (!parent || !find(upper_inode(parent->d_inode), &key))
		return 0;
	thread = bpf_get_current_pid_tgid();
	if (bpf_map_update_elem(&copy_ups, &thread, &subject, BPF_NOEXIST) == 0)
		__sync_fetch_and_add(&copying_up, 1);
	return 0;
}

SEC("fexit/ovl_copy_up_one")
int BPF_PROG(copy_up_exit, struct dentry *parent, struct dentry *dentry, int flags, int ret)
{
	__u64 thread = bpf_get_current_pid_tgid();

	if (copying_up > 0 && bpf_map_delete_elem(&copy_ups, &thread) == 0)
		__sync_fetch_and_add(&copying_up, -1);
	return 0;
}

SEC("fentry/ovl_inode_update")
int BPF_PROG(copied_up_entry, struct inode *overlay, struct dentry *upper)
{
	__u64 thread = bpf_get_current_pid_tgid(), *subject;
	struct file_key key = {}, parent_key = {};
	struct inode *inode = upper->d_inode;
	struct file_entry *file, *parent, fresh;
	struct process_id process;
	struct dentry *dentry;

	subject = bpf_map_lookup_elem(&copy_ups, &thread);
	if (!subject || !inode)
		return 0;
	dentry = (struct dentry *)*subject;
	parent = parent_of(dentry, &parent_key);
	if (!parent)
		return 0;

	file = find(inode, &key);
	if (!file) {
		/* Nothing was allocated for it: an empty file, a short symlink. */
		new_entry(&fresh, parent->layer, 0, STATE_PENDING);
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
	named(FILE_COPIED_UP, file, &key, dentry, &process);
	published(file, &key, BPF_CORE_READ(inode, i_size), &process, CAUSE_COPY_UP);
	return 0;
}

/* ---- names ------------------------------------------------------------ */

/*
 * ovl_rename's first argument is a user namespace since 5.12, an idmap since 6.3.
 * The VFS moves the dentries only after it has returned: `new` still tells the
 * file's new place.
 */
SEC("fexit/ovl_rename")
int BPF_PROG(rename_exit, void *idmap, struct inode *olddir, struct dentry *old,
	     struct inode *newdir, struct dentry *new, unsigned int flags, int ret)
{
	struct change change = { .causes = CAUSE_RENAME };
	struct file_key key = {};
	struct process_id process;
	struct file_entry *file;

	if (ret)
		return 0;
	file = find(upper_inode(old->d_inode), &key);
	if (!file)
		return 0;
	current_process(&process);
	named(FILE_RENAMED, file, &key, new, &process);
	book(file, &key, &process, &change);
	if (!(flags & RENAME_EXCHANGE))
		return 0;
	file = find(upper_inode(new->d_inode), &key);
	if (!file)
		return 0;
	named(FILE_RENAMED, file, &key, old, &process);
	book(file, &key, &process, &change);
	return 0;
}

/* A name was removed: of an inode that has others, or of the image. */
SEC("fexit/ovl_do_remove")
int BPF_PROG(remove_exit, struct dentry *dentry, bool is_dir, int ret)
{
	struct change change = { .causes = CAUSE_DELETE };
	struct file_key key = {}, parent_key = {};
	struct file_event event = {};
	struct process_id process;
	struct file_entry *file, *parent;
	struct inode *inode;

	if (ret)
		return 0;
	parent = parent_of(dentry, &parent_key);
	if (!parent)
		return 0;
	current_process(&process);
	inode = upper_inode(dentry->d_inode);
	if (inode) {
		file = find(inode, &key);
		if (file && file->state == STATE_LIVE) {
			book(file, &key, &process, &change);
			named(FILE_UNLINKED, file, &key, dentry, &process);
		}
		return 0;
	}
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
	struct file_entry *file = find_typed(inode, &key);
	struct layer *layer;
	__s64 moved;

	if (!file || inode->i_nlink || file->state != STATE_LIVE)
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
SEC("fexit/drop_nlink")
int BPF_PROG(drop_nlink_exit, struct inode *inode)
{
	unlinked(inode);
	return 0;
}

SEC("fexit/clear_nlink")
int BPF_PROG(clear_nlink_exit, struct inode *inode)
{
	unlinked(inode);
	return 0;
}

/*
 * evict frees an unlinked inode's blocks and then its number. The page goes
 * first, so that an inode that gets the number next never meets it.
 */
SEC("fentry/evict")
int BPF_PROG(evict_entry, struct inode *inode)
{
	struct file_event event = {};
	struct file_key key;
	struct file_entry *file;

	if (inode->i_nlink)
		return 0;
	file = find_typed(inode, &key);
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
	struct file_entry *file = find_typed(inode, &key);

	if (!file)
		return;
	if (bytes > 0) {
		change.written = bytes;
		change.writes = 1;
	} else if (bytes != -EIOCBQUEUED && file->size == inode->i_size) {
		return;
	}
	size_changed(file, &key, inode->i_size, &change);
}

/* Writes of overlayfs to the real file, since 6.8 (upstream 5f034d34737e). */
SEC("fexit/backing_file_write_iter")
int BPF_PROG(backing_write_exit, struct file *file, void *iter, struct kiocb *iocb, int flags,
	     void *context, long ret)
{
	written(file->f_inode, ret, CAUSE_WRITE);
	return 0;
}

SEC("fexit/backing_file_splice_write")
int BPF_PROG(backing_splice_exit, void *pipe, struct file *file, void *pos, unsigned long len,
	     unsigned int flags, void *context, long ret)
{
	written(file->f_inode, ret, CAUSE_WRITE);
	return 0;
}

/* And before 6.8. splice and sendfile end in vfs_iter_write there. */
SEC("fexit/vfs_iter_write")
int BPF_PROG(iter_write_exit, struct file *file, void *iter, void *pos, int flags, long ret)
{
	written(file->f_inode, ret, CAUSE_WRITE);
	return 0;
}

SEC("fexit/vfs_iocb_iter_write")
int BPF_PROG(iocb_write_exit, struct file *file, struct kiocb *iocb, void *iter, long ret)
{
	written(file->f_inode, ret, CAUSE_WRITE);
	return 0;
}

/*
 * Asynchronous writes: the size has changed when the call returns, what was
 * written is known only now, on behalf of the file's last writer.
 */
static __always_inline void completed(struct kiocb *iocb, long bytes)
{
	struct change change = { .causes = CAUSE_WRITE };
	struct inode *inode = iocb->ki_filp->f_inode;
	struct file_key key;
	struct file_entry *file;

	if (bytes <= 0 || !(iocb->ki_flags & IOCB_WRITE))
		return;
	file = find_typed(inode, &key);
	if (!file)
		return;
	struct process_id process = file->writer;
	change.written = bytes;
	change.writes = 1;
	book(file, &key, &process, &change);
}

SEC("fentry/backing_aio_rw_complete")
int BPF_PROG(backing_aio_entry, struct kiocb *iocb, long res)
{
	completed(iocb, res);
	return 0;
}

SEC("fentry/ovl_aio_rw_complete")
int BPF_PROG(ovl_aio_entry, struct kiocb *iocb, long res)
{
	completed(iocb, res);
	return 0;
}

SEC("fexit/vfs_fallocate")
int BPF_PROG(fallocate_exit, struct file *file, int mode, __s64 offset, __s64 len, long ret)
{
	struct change change = { .causes = CAUSE_ALLOCATE };
	struct file_key key;
	struct file_entry *entry = find_typed(file->f_inode, &key);

	if (entry && !ret)
		size_changed(entry, &key, file->f_inode->i_size, &change);
	return 0;
}

/*
 * Before 6.8 copy_file_range to a file system that cannot share extents passes
 * vfs_iter_write on its way, which has counted what was written: so only the
 * size is compared there (count_copies is false).
 */
const volatile bool count_copies = true;

SEC("fexit/vfs_copy_file_range")
int BPF_PROG(copy_range_exit, struct file *in, __s64 pos_in, struct file *out, __s64 pos_out,
	     unsigned long len, unsigned int flags, long ret)
{
	written(out->f_inode, count_copies ? ret : 0, CAUSE_WRITE);
	return 0;
}

SEC("fexit/vfs_clone_file_range")
int BPF_PROG(clone_range_exit, struct file *in, __s64 pos_in, struct file *out, __s64 pos_out,
	     __s64 len, unsigned int flags, __s64 ret)
{
	written(out->f_inode, ret, CAUSE_CLONE);
	return 0;
}

/* notify_change(idmap or user namespace since 5.12, dentry, attributes, …) */
SEC("fexit/notify_change")
int BPF_PROG(notify_change_exit, void *idmap, struct dentry *dentry, struct iattr *attr)
{
	struct change change = {};
	struct inode *inode = dentry->d_inode;
	struct file_key key;
	struct file_entry *file = find_typed(inode, &key);

	if (!file || file->state == STATE_PENDING)
		return 0;
	if (attr->ia_valid & ATTR_SIZE)
		change.causes = CAUSE_TRUNCATE;
	else if (file->size == inode->i_size || (file->mode & S_IFMT) == S_IFDIR)
		return 0;
	size_changed(file, &key, inode->i_size, &change);
	return 0;
}

/* A first store to a page of a shared mapping: tells why disk is allocated. */
SEC("fentry/do_page_mkwrite")
int BPF_PROG(page_mkwrite_entry, struct vm_fault *fault)
{
	struct change change = { .causes = CAUSE_MMAP };
	struct process_id process;
	struct file_key key;
	struct file_entry *file;

	file = find_typed(fault->vma->vm_file->f_inode, &key);
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
	struct file_entry *file = find_typed(inode, &key), fresh;
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

SEC("fexit/__dquot_alloc_space")
int BPF_PROG(quota_alloc_exit, struct inode *inode, __s64 bytes, int flags, int ret)
{
	if (!ret)
		quota_changed(inode, bytes);
	return 0;
}

SEC("fentry/__dquot_free_space")
int BPF_PROG(quota_free_entry, struct inode *inode, __s64 bytes, int flags)
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

SEC("fexit/ovl_fill_super")
int BPF_PROG(mount_exit, struct super_block *sb)
{
	mounted(sb, 1);
	return 0;
}

SEC("fentry/generic_shutdown_super")
int BPF_PROG(unmount_entry, struct super_block *sb)
{
	mounted(sb, -1);
	return 0;
}

/* ---- covered paths ---------------------------------------------------- */

/* Cgroups of watched containers, with their layers. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_LAYERS);
	__type(key, __u64);
	__type(value, __u32);
} cgroups SEC(".maps");

/* Sizes of files outside of the layers that watched containers have written to. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct file_key);
	__type(value, __s64);
} covered_sizes SEC(".maps");

static __noinline int announce_covered(struct file *file, struct file_key *key)
{
	struct covered_record *record = bpf_ringbuf_reserve(&events, sizeof(*record), 0);

	if (!record) {
		struct loss_counts *lost = lost_records();

		if (lost)
			__sync_fetch_and_add(&lost->file_records, 1);
		return 0;
	}
	record->kind = RECORD_COVERED;
	record->file = *key;
	record->length = file_path(file, record->path);
	bpf_ringbuf_submit(record, wake_flags());
	return 0;
}

/*
 * covered_layer tells for which layer a write to a file is to be reported as
 * outside of it; 0 for none: not a file, not a watched container, or a file of
 * the layer, of which the ledger keeps account.
 */
static __always_inline __u32 covered_layer(struct file *file, struct file_key *key)
{
	struct inode *inode = BPF_CORE_READ(file, f_inode);
	struct super_block *sb = BPF_CORE_READ(inode, i_sb);
	struct file_key root = {};
	struct dentry *dentry;
	__u64 cgroup;
	__u32 *layer;

	if ((BPF_CORE_READ(inode, i_mode) & S_IFMT) != S_IFREG)
		return 0;
	cgroup = bpf_get_current_cgroup_id();
	layer = bpf_map_lookup_elem(&cgroups, &cgroup);
	if (!layer)
		return 0;
	if (BPF_CORE_READ(sb, s_magic) == OVERLAYFS_SUPER_MAGIC) {
		dentry = BPF_CORE_READ(sb, s_root);
		if (find(upper_inode(BPF_CORE_READ(dentry, d_inode)), &root))
			return 0;
	}
	key->device = BPF_CORE_READ(sb, s_dev);
	key->inode = BPF_CORE_READ(inode, i_ino);
	return *layer;
}

static __always_inline void covered_before(struct file *file)
{
	struct file_key key = {};
	struct inode *inode;
	__s64 size;

	if (!covered_layer(file, &key))
		return;
	inode = BPF_CORE_READ(file, f_inode);
	size = BPF_CORE_READ(inode, i_size);
	if (bpf_map_update_elem(&covered_sizes, &key, &size, BPF_NOEXIST) == 0)
		announce_covered(file, &key);
}

static __always_inline void covered_after(struct file *file, long bytes)
{
	struct counter_key counter_key = {};
	struct file_key key = {};
	struct counter *counter;
	struct inode *inode;
	__s64 *size, now;

	if (bytes <= 0)
		return;
	counter_key.layer = covered_layer(file, &key);
	if (!counter_key.layer)
		return;
	counter_key.device = key.device;
	counter_key.inode = key.inode;
	current_process(&counter_key.process);
	counter = counter_of(&counter_key);
	if (!counter)
		return;
	inode = BPF_CORE_READ(file, f_inode);
	now = BPF_CORE_READ(inode, i_size);
	size = bpf_map_lookup_elem(&covered_sizes, &key);
	if (size && *size != now)
		__sync_fetch_and_add(&counter->size, now - __sync_lock_test_and_set(size, now));
	counter->file_size = now;
	counter->causes = CAUSE_WRITE;
	__sync_fetch_and_add(&counter->written, bytes);
	__sync_fetch_and_add(&counter->writes, 1);
}

SEC("fentry/vfs_write")
int BPF_PROG(covered_write_entry, struct file *file)
{
	covered_before(file);
	return 0;
}

SEC("fexit/vfs_write")
int BPF_PROG(covered_write_exit, struct file *file, void *buffer, unsigned long count, void *pos,
	     long ret)
{
	covered_after(file, ret);
	return 0;
}

SEC("fentry/vfs_writev")
int BPF_PROG(covered_writev_entry, struct file *file)
{
	covered_before(file);
	return 0;
}

SEC("fexit/vfs_writev")
int BPF_PROG(covered_writev_exit, struct file *file, void *vec, unsigned long count, void *pos,
	     int flags, long ret)
{
	covered_after(file, ret);
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
 * settle gives a page its baseline, what stat said after track; if nothing was
 * booked on it since userspace looked (events, disk), stat and page speak of the
 * same moment. A size that a hook has read meanwhile is the baseline instead.
 */
SEC("raw_tp")
int settle(struct settle_args *args)
{
	struct file_key key = { .inode = args->inode, .device = args->device };
	struct file_entry *file = bpf_map_lookup_elem(&files, &key);

	if (!file || file->state != STATE_LIVE)
		return SETTLE_GONE;
	if (file->events != args->events)
		return SETTLE_AGAIN;
	__sync_fetch_and_add(&file->disk, args->allocated - args->disk);
	file->settled = 1;
	if ((file->mode & S_IFMT) == S_IFDIR)
		return SETTLE_DONE;
	if (__sync_val_compare_and_swap(&file->size, SIZE_UNKNOWN, args->size) != SIZE_UNKNOWN)
		return SETTLE_SIZE_TAKEN;
	file->base_size = args->size;
	return SETTLE_DONE;
}
