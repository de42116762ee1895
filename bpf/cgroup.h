/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Control groups: which one the process at work is in, and whose that is. */
#pragma once

/* The number of the v1 controller whose hierarchy runtimes use; negative for v2. */
const volatile __s32 cgroup_controller = -1;

/* How far below a container's own cgroup its processes may be. */
#define CGROUP_DEPTH 32

/* Cgroups of watched containers, with their layers. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_LAYERS);
	__type(key, __u64);
	__type(value, __u32);
} cgroups SEC(".maps");

/* Userspace counts its changes of `cgroups`: what was found before does not hold. */
volatile __u64 cgroups_changed = 0;

struct cgroup_key {
	__u64 cgroup;
	__u64 changed;
};

/* What the way up from a cgroup has led to, 0 for no layer: spares a process the
 * way at each write. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct cgroup_key);
	__type(value, __u32);
} cgroup_layers SEC(".maps");

/* current_state is where the current task is in the hierarchy that counts. */
static __always_inline struct cgroup_subsys_state *current_state(void)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct css_set *set = BPF_CORE_READ(task, cgroups);
	struct cgroup_subsys_state *state = NULL;

	if (cgroup_controller < 0)
		return (void *)BPF_CORE_READ(set, dfl_cgrp) + bpf_core_field_offset(struct cgroup, self);
	bpf_probe_read_kernel(&state, sizeof(state),
			      (void *)set + bpf_core_field_offset(struct css_set, subsys) +
				      cgroup_controller * sizeof(state));
	return state;
}

/* current_cgroup is the inode number of the current task's cgroup directory. */
static __always_inline __u64 current_cgroup(void)
{
	if (cgroup_controller < 0)
		return bpf_get_current_cgroup_id();
	return BPF_CORE_READ(current_state(), cgroup, kn, id);
}

/*
 * cgroup_layer is the layer of the watched container that the current task is in,
 * in its own cgroup or in one below (systemd in a container); 0 for none.
 */
static __always_inline __u32 cgroup_layer(void)
{
	struct cgroup_key key = { .cgroup = current_cgroup(), .changed = cgroups_changed };
	__u32 *known = bpf_map_lookup_elem(&cgroup_layers, &key), layer = 0;
	struct cgroup_subsys_state *state;

	if (known)
		return *known;
	state = current_state();
	for (int i = 0; i < CGROUP_DEPTH && state; i++) {
		__u64 cgroup = BPF_CORE_READ(state, cgroup, kn, id);

		known = bpf_map_lookup_elem(&cgroups, &cgroup);
		if (known) {
			layer = *known;
			break;
		}
		state = BPF_CORE_READ(state, parent);
	}
	bpf_map_update_elem(&cgroup_layers, &key, &layer, BPF_ANY);
	return layer;
}
