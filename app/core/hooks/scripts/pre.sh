# The pre hook. Arguments: require|- FREEZE AUTOTHAW UNDO QUIESCE RESUME, seconds, and what the guest part takes.
# Velero ends nothing when its timeout passes, and runs no post hook after a pre hook that fails under on-error Fail
# (velero v1.18.3, pkg/podexec and pkg/backup): so every part has its own limit, and what failed is undone here.
phase=pre
require=$1 freeze=$2 auto_thaw=$3 undo=$4 quiesce=$5 resume=$6
shift 6

# A freeze that was given up may still take place: the guest must say thawed twice.
thaw() {
	local seen=0 until=$((SECONDS + undo))
	while [ "$SECONDS" -lt "$until" ]; do
		freezer_does $((until - SECONDS)) --unfreeze
		if guest_is thawed; then
			[ $((seen += 1)) -lt 2 ] || return
			sleep 5
		else
			seen=0
			sleep 1
		fi
	done
	wrong 'the guest did not say that it is thawed'
}

give_up() {
	abandon "$resume" "$@"
	fail
}

if guest_is frozen; then
	wrong 'the guest is frozen already: another backup or snapshot is at work'
	fail
fi
quiesce "$quiesce" "$@"
[ -z "$problem" ] || give_up "$@"

freezer_does "$freeze" --freeze --unfreezeTimeoutSeconds "$auto_thaw" || wrong "freeze: virt-freezer ended with $?: $said"
not=''
if [ -z "$problem" ]; then
	guest_is frozen || not='the guest does not report frozen'
	[[ $said != *'No guest agent'* && $said != *'domain not running'* ]] || not='virt-freezer froze nothing'
	[ -z "$not" ] || [ "$require" = - ] || wrong "freeze: $not"
	if [ -z "$problem" ]; then
		say "${not:+not }frozen${not:+: $not}" && exit
		wrong 'nobody listens any more'
	fi
fi
[ "$not" = 'virt-freezer froze nothing' ] || thaw
give_up "$@"
