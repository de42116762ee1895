# shellcheck shell=bash
# Shared by the scripts of this repository that prepare the machine: messages, the cache directory,
# packages of the host. Sourced, never run.

# Kernels, the guest's Docker and toolchains are far larger than the repository and outlive a
# checkout, so they are kept outside of it.
# shellcheck disable=SC2034
if [[ $EUID -eq 0 ]]; then
	cache_dir=${LAYERTRACE_CACHE:-/var/cache/layertrace}
else
	cache_dir=${LAYERTRACE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/layertrace}
fi

# mkfs, modprobe and depmod live in sbin, which a root shell opened with plain `su` does not search.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

die() {
	say "$*"
	exit 125
}

require_root() {
	[[ $EUID -eq 0 ]] || die "needs root: run it again under sudo"
}

# The guest is an x86-64 Debian; an arm64 one needs another QEMU machine, console and package set.
require_amd64() {
	local arch
	arch=$(dpkg --print-architecture)
	[[ $arch == amd64 ]] || die "the test VM supports amd64 hosts only so far, this one is $arch"
}

apt_get() {
	DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 \
		apt-get -q -y -o DPkg::Lock::Timeout=300 "$@" </dev/null
}

# apt_install PACKAGE...: installs without touching the package lists where they suffice, since a
# refresh costs more than most installations. A fresh machine has none, an old one points at
# versions that are gone: both fail at once, and then the lists are refreshed.
apt_install() {
	local log lock status=0
	require_root
	log=$(mktemp)
	# apt waits for another run that installs, but not for one that refreshes the lists. What the
	# packages start must not keep the lock.
	mkdir -p /run/lock
	exec {lock}>>/run/lock/layertrace-apt
	flock "$lock"
	say "installing $*"
	{ apt_get install --no-install-recommends "$@" ||
		{ apt_get update && apt_get install --no-install-recommends "$@"; }; } >"$log" 2>&1 {lock}>&- || status=1
	exec {lock}>&-
	if ((status != 0)); then
		tail -n 15 "$log" >&2
		say "could not install: $*"
	fi
	rm -f "$log"
	return "$status"
}

present() {
	if [[ $1 == /* ]]; then [[ -e $1 ]]; else command -v "$1" >/dev/null; fi
}

# need COMMAND=PACKAGE...: asks for commands (or files) rather than packages, so that a tool that
# came from elsewhere counts as present and nothing is installed twice.
need() {
	local pair missing=()
	for pair; do
		present "${pair%%=*}" || missing+=("${pair#*=}")
	done
	((${#missing[@]} == 0)) || apt_install "${missing[@]}"
}
