package resolver

import (
	"strings"
	"testing"
)

// layouts are the paths that runtimes give their cgroups. C stands for the
// container's id, S for that of its pod's sandbox or of the outer container, U for
// a pod's uid.
var layouts = []struct{ runtime, path, want string }{
	{"docker, cgroupfs", "/docker/C", "C"},
	{"docker, systemd", "/system.slice/docker-C.scope", "C"},
	{"docker, systemd in the container", "/system.slice/docker-C.scope/init.scope", "C"},
	{"docker, --cgroup-parent", "/acme/team/C", "C"},
	{"docker, --cgroup-parent of systemd", "/acme.slice/acme-team.slice/docker-C.scope", "C"},
	{"docker, rootless", "/user.slice/user-1000.slice/user@1000.service/user.slice/docker-C.scope", "C"},
	{"docker in docker", "/docker/S/docker/C", "C"},
	{"podman, systemd", "/machine.slice/libpod-C.scope/container", "C"},
	{"podman, its monitor", "/machine.slice/libpod-conmon-C.scope", ""},
	{"podman, cgroupfs", "/libpod_parent/libpod-C", "C"},
	{"podman, rootless", "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-C.scope/container", "C"},
	{"podman, pod", "/machine.slice/machine-libpod_pod_S.slice/libpod-C.scope/container", "C"},
	{"podman, --cgroups=split", "/system.slice/web.service/libpod-payload-C", "C"},
	{"podman, --cgroups=split, its monitor", "/system.slice/web.service/runtime", ""},
	{"containerd by nerdctl, systemd", "/system.slice/nerdctl-C.scope", "C"},
	{"containerd by nerdctl or ctr, cgroupfs", "/default/C", "C"},
	{"kubelet, cgroupfs, guaranteed", "/kubepods/podU/C", "C"},
	{"kubelet, cgroupfs, burstable", "/kubepods/burstable/podU/C", "C"},
	{"kubelet, cgroupfs, besteffort", "/kubepods/besteffort/podU/C", "C"},
	{"kubelet, systemd, guaranteed", "/kubepods.slice/kubepods-podU.slice/cri-containerd-C.scope", "C"},
	{"kubelet, systemd, burstable", "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podU.slice/cri-containerd-C.scope", "C"},
	{"kubelet, systemd, besteffort", "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podU.slice/cri-containerd-C.scope", "C"},
	{"kubelet with systemd, containerd without", "/system.slice/containerd.service/kubepods-burstable-podU.slice:cri-containerd:C", "C"},
	{"kubelet with cri-dockerd", "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podU.slice/docker-C.scope", "C"},
	{"CRI-O, systemd, guaranteed", "/kubepods.slice/kubepods-podU.slice/crio-C.scope", "C"},
	{"CRI-O, systemd, burstable, crun", "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podU.slice/crio-C.scope/container", "C"},
	{"CRI-O, systemd, besteffort", "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podU.slice/crio-C.scope", "C"},
	{"CRI-O, its monitor", "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podU.slice/crio-conmon-C.scope", ""},
	{"CRI-O, cgroupfs", "/kubepods/burstable/podU/crio-C", "C"},
	{"kind", "/docker/S/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-podU.slice/cri-containerd-C.scope", "C"},
	{"kind, systemd on the host", "/system.slice/docker-S.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-podU.slice/cri-containerd-C.scope", "C"},
	{"kind, its node", "/system.slice/docker-S.scope/init.scope", "S"},
	{"a service of the host", "/system.slice/nginx.service", ""},
	{"a session", "/user.slice/user-1000.slice/session-2.scope", ""},
	{"the root", "/", ""},
}

// expand fills in a layout.
func expand(layout string) string {
	if layout == "" {
		return ""
	}
	uid := "0c1f1d5c-2f3e-4a55-9f0a-6d1c0a0b9e11"
	if strings.Contains(layout, ".slice") {
		uid = strings.ReplaceAll(uid, "-", "_")
	}
	var b strings.Builder
	for _, part := range strings.SplitAfter(layout, "/") {
		name, slash := strings.TrimSuffix(part, "/"), strings.HasSuffix(part, "/")
		name = strings.Replace(name, "podU", "pod"+uid, 1)
		for letter, digit := range map[string]string{"C": "c", "S": "5"} {
			if name == letter {
				name = id(digit)
			}
			for _, before := range []string{"-", ":", "_"} {
				for _, behind := range []string{".scope", ".slice", ""} {
					if stem, ok := strings.CutSuffix(name, before+letter+behind); ok {
						name = stem + before + id(digit) + behind
					}
				}
			}
		}
		b.WriteString(name)
		if slash {
			b.WriteByte('/')
		}
	}
	return b.String()
}

func TestCgroupLayouts(t *testing.T) {
	for _, l := range layouts {
		want := expand(l.want)
		name := expand(l.path)
		a := newActors(func(uint64) (string, error) { return name, nil })
		// The runtime knows both containers of nested ones; the inner one acts.
		got, ok := a.find(1, isHex)
		if got != want || ok != (want != "") {
			t.Errorf("%s: %s is of container %q, want %q", l.runtime, name, got, want)
		}
		if want == "" {
			continue
		}
		own := (hierarchy{}).own([]byte("12:pids:/elsewhere\n0::"+name+"\n"), want)
		if own == "" || !strings.HasPrefix(name, own) || !strings.Contains(own[strings.LastIndexByte(own, '/'):], want) {
			t.Errorf("%s: the container's own cgroup is %q of %s", l.runtime, own, name)
		}
	}
}

// TestCgroupOfNames: containerd's own client and podman's --rootfs give names of
// any form.
func TestCgroupOfNames(t *testing.T) {
	for _, test := range []struct{ path, id, own string }{
		{"/default/web", "default/web", "/default/web"},
		{"/default/web/init", "default/web", "/default/web"},
		{"/default/webber", "default/web", ""},
		{"/other/web", "default/web", ""},
		{"/system.slice/ctr-web.scope", "default/web", ""},
	} {
		if got := (hierarchy{}).own([]byte("0::"+test.path+"\n"), test.id); got != test.own {
			t.Errorf("container %s: own cgroup %q of %s, want %q", test.id, got, test.path, test.own)
		}
	}
}
