/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Who is at work, and how userspace learns of it. */
#pragma once

/* The thread group at work, by its leader: workers of io_uring are its threads. */
static __always_inline void current_process(struct process_id *id)
{
	struct task_struct *leader = READ(TASK_TYPED, current_task(), group_leader);

	id->pid = READ(TASK_TYPED, leader, tgid);
	id->exec = READ(TASK_TYPED, leader, self_exec_id);
	id->start_ns = READ(TASK_TYPED, leader, start_boottime);
}

static __always_inline bool in_kernel_thread(void)
{
	return READ(TASK_TYPED, current_task(), flags) & PF_KTHREAD;
}

/* writes_back tells whether the current thread is writing back, for whom ever. */
static __always_inline bool writes_back(void)
{
	return is_within(writing_back, WITHIN_WRITEBACK);
}

/*
 * actor finds who is to be charged. Work that the kernel finishes by itself
 * (write-back, the end of asynchronous I/O) belongs to the file's last writer, also
 * where somebody else has asked for it by fsync or sync.
 */
static __always_inline bool actor(struct process_id *id, struct file_entry *file)
{
	/* Of a file that nobody has written since tracing began, who asked for it. */
	if (in_kernel_thread() || (file->writer.pid && writes_back())) {
		*id = file->writer;
		return false;
	}
	current_process(id);
	return true;
}

/* Where file_path stands on its way up from a file to the root of its namespace. */
struct path_walk {
	struct vfsmount *mnt;
	struct dentry *root; /* of mnt */
	struct dentry *dentry;
	char *buffer;
	__u32 length;
	__u32 end; /* one of these, 0 while it is under way or if there was no room */
};

#define WALK_ARRIVED 1
#define WALK_DETACHED 2 /* a file without a path, such as a memfd */

/*
 * One step up: a component, or a crossing into the mount below. Called for each
 * element of path_steps: the verifier reads a callback once, and a loop with so
 * many ways through it tens of thousands of times.
 */
static __noinline long path_step(void *map, __u32 *index, __u64 *unused, struct path_walk *walk)
{
	struct dentry *dentry = walk->dentry;
	struct vfsmount *mnt = walk->mnt;
	__u32 length = walk->length;
	struct dentry *parent;
	long n;

	if (dentry == walk->root) {
		struct mount *mount = (void *)mnt - bpf_core_field_offset(struct mount, mnt);
		struct mount *below = BPF_CORE_READ(mount, mnt_parent);

		if (below == mount) {
			walk->end = WALK_ARRIVED;
			return 1;
		}
		walk->dentry = BPF_CORE_READ(mount, mnt_mountpoint);
		mnt = (void *)below + bpf_core_field_offset(struct mount, mnt);
		walk->mnt = mnt;
		walk->root = BPF_CORE_READ(mnt, mnt_root);
		return 0;
	}
	if (length >= PATH_BYTES)
		return 1;
	n = bpf_probe_read_kernel_str(walk->buffer + length, NAME_MAX + 1,
				      BPF_CORE_READ(dentry, d_name.name));
	if (n <= 0)
		return 1;
	walk->length = length + n;
	parent = BPF_CORE_READ(dentry, d_parent);
	if (parent == dentry) {
		walk->end = WALK_DETACHED;
		return 1;
	}
	walk->dentry = parent;
	return 0;
}

/*
 * file_path writes the components of an open file's path, the last one first,
 * across mounts up to the root of its mount namespace. It returns how many bytes
 * that took, 0 if the file has no path, or one with more bytes or components than there
 * is room for.
 */
static __always_inline __u32 file_path(struct file *file, char *buffer)
{
	struct vfsmount *mnt = BPF_CORE_READ(file, f_path.mnt);
	struct path_walk walk = {
		.mnt = mnt,
		.root = BPF_CORE_READ(mnt, mnt_root),
		.dentry = BPF_CORE_READ(file, f_path.dentry),
		.buffer = buffer,
	};
	struct loss_counts *lost;

#ifdef OLD_KERNEL
	for (__u32 i = 0; i < PATH_COMPONENTS; i++)
		if (path_step(NULL, NULL, NULL, &walk))
			break;
#else
	bpf_for_each_map_elem(&path_steps, path_step, &walk, 0);
#endif
	if (walk.end == WALK_ARRIVED)
		return walk.length;
	if (walk.end == WALK_DETACHED)
		return 0;
	lost = lost_records();
	if (lost)
		__sync_fetch_and_add(&lost->long_paths, 1);
	return 0;
}

/* Not on the stack, of which there is little. */
const __u8 known = 1, unknown = 0;

static __always_inline void announce_executable(struct executable_key *key, struct file *exe)
{
	struct executable_record *record;

	if (bpf_map_update_elem(&executables, key, &known, BPF_NOEXIST))
		return;
	record = bpf_ringbuf_reserve(&events, sizeof(*record), 0);
	if (!record) {
		bpf_map_delete_elem(&executables, key);
		return;
	}
	record->kind = RECORD_EXECUTABLE;
	record->executable = *key;
	record->length = file_path(exe, record->path);
	bpf_ringbuf_submit(record, wake_flags());
}

/*
 * announce_process tells userspace who the current process is, once.
 */
static __noinline int announce_process(struct process_id *who)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct executable_key executable = {};
	volatile struct process_id *last;
	struct process_record *record;
	struct task_struct *leader;
	struct process_id id;
	struct file *exe;
	__u8 *state;

	if (!who)
		return 0;
	id = *who; /* only memory of its own makes a map's key */
	last = &told[id.pid & (TOLD - 1)];
	if (last->pid == id.pid && last->start_ns == id.start_ns && last->exec == id.exec)
		return 0;
	state = bpf_map_lookup_elem(&processes, &id);
	if (state) {
		if (*state == known)
			*last = id;
		return 0;
	}
	if (bpf_map_update_elem(&processes, &id, &unknown, BPF_NOEXIST))
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
		bpf_map_delete_elem(&processes, &id);
		return 0;
	}
	leader = BPF_CORE_READ(task, group_leader);
	record->kind = RECORD_PROCESS;
	record->parent_pid = BPF_CORE_READ(leader, real_parent, tgid);
	record->process = id;
	record->cgroup_id = current_cgroup();
	record->executable = executable;
	bpf_probe_read_kernel(record->comm, sizeof(record->comm), leader->comm);
	bpf_ringbuf_submit(record, wake_flags());
	bpf_map_update_elem(&processes, &id, &known, BPF_EXIST);
	return 0;
}
