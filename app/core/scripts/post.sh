# The post hook. Arguments: require|- THAW RESUME, seconds, and what the guest part takes.
phase=post
require=$1 thaw=$2 resume=$3
shift 3

was='was frozen until then'
guest_is frozen || was='was not frozen any more'
[ "$require" = - ] || [ "$was" = 'was frozen until then' ] || wrong "freeze: the guest $was"

until=$((SECONDS + thaw))
until freezer_does $((until > SECONDS ? until - SECONDS : 1)) --unfreeze; do
	if [ "$SECONDS" -ge "$until" ]; then
		wrong "thaw: $said"
		break
	fi
	sleep 1
done

resume "$resume" "$@"
[ -z "$problem" ] || fail
say "thawed, $was"
