/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Who is at work, and how userspace learns of it. */
#pragma once

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
