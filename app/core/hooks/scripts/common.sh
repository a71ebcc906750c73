# What both hooks share. Runs in the `compute` container of virt-launcher, which has bash, coreutils, virsh and KubeVirt's
# virt-freezer and virt-probe, and little else. All that varies comes as arguments; nothing of it is ever code.
set -u -o pipefail
# What failed is undone even when nobody listens any more, or somebody wants this to end.
trap '' PIPE
trap 'wrong "stopped by a signal"' TERM HUP INT
LC_ALL=C
namespace=$1 vm=$2 freezer=$3
domain=${namespace}_$vm problem='' run='' lines=''
shift 3

# What a guest says is data: cut, and without the characters that could forge a line of a log or steer a terminal.
clean() { { head -c 4096; cat >/dev/null; } | tr -cd '\n -~'; }

say() { echo "vm-consistency: $*"; }

wrong() { problem=$problem${problem:+; }$1; }

fail() {
	problem=${problem:0:500}
	say "$phase hook failed: ${problem//$'\n'/ }" >&2
	exit 1
}

# freezer_does SECONDS FLAG...: virt-freezer's own lines are passed on.
freezer_does() {
	local seconds=$1
	shift
	said=$(timeout "$seconds" "$freezer" "$@" --name "$vm" --namespace "$namespace" 2>&1 </dev/null | clean)
	set -- $?
	lines=$lines$said
	[ -z "$said" ] || echo "$said"
	return "$1"
}

# guest_is frozen|thawed: what the guest agent says, to the letter; anything else, silence too, is a no.
guest_is() {
	local ask='{"execute":"guest-fsfreeze-status"}'
	[ "$(timeout 9 virsh -q qemu-agent-command "$domain" --timeout 5 "$ask" 2>&1 </dev/null | clean)" = "{\"return\":\"$1\"}" ]
}
