# The post hook. Arguments: require|- THAW RESUME, seconds, and what the guest part takes.
phase=post
require=$1 thaw=$2 resume=$3
shift 3

was='did not say whether it was frozen'
if guest_is frozen; then
	was='was frozen until then'
elif guest_is thawed; then
	was='was not frozen any more'
fi
[ "$require" = - ] || [ "$was" = 'was frozen until then' ] || wrong "freeze: the guest $was"

# virt-freezer ends with 0 as well where it does nothing: it has not heard of an agent, or the guest is paused. A guest
# that is resumed after KubeVirt's timer has fired would stay frozen.
until=$((SECONDS + thaw))
while ! freezer_does $((until > SECONDS ? until - SECONDS : 1)) --unfreeze || guest_is frozen ||
	[[ $said == *'domain not running'* ]]; do
	if [ "$SECONDS" -ge "$until" ]; then
		wrong "thaw: ${said:-the guest is frozen still}"
		break
	fi
	sleep 1
done
# Windows lets go after ten seconds and goes on to say frozen; it tells at the first thaw only.
[[ $lines != *'fsfreeze is limited'* ]] || wrong 'thaw: Windows had let go of the freeze before'

resume "$resume" "$@"
[ -z "$problem" ] || fail
say "thawed, $was"
