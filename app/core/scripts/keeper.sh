# The keeper, run by sh in the guest: quiesces, keeps the application so until the post hook writes `end` or its time is
# up, and resumes. $i names the run. Its status is one line: `RUN running STEP`, `RUN held`, `RUN resuming STEP`, or
# `RUN over FAILED-RESUMES|- WHY`. The lock goes with the process, whatever ends it.
# shellcheck disable=SC2154  # whoever starts it sets $i
unset IFS
set +f
umask 077
d=/run/vm-consistency
mkdir -p $d
exec 9>$d/lock
flock -n 9 || {
	echo "$i busy"
	exit
}
cd / && rm -f $d/end
s() { echo "$i $*" >$d/new && mv -f $d/new $d/status; }
# x NAME SECONDS CODE: what it prints is cut, and does not stop it.
x() {
	{
		timeout -k 2 "$2" sh -c "$3" </dev/null 2>&1 9>&-
		echo $? >$d/code
	} | {
		head -c 300 >$d/out
		cat >/dev/null
	}
	read -r c <$d/code
	return "$c"
}
q() { [ "$w" ] || { s running "$1" && x "$@"; } || w="step $1 ended with $c: $(cat $d/out)"; }
r() { { s resuming "$1" && x "$@"; } || b=$b${b:+,}$1:$c; }
# 0: there is nothing to resume, so nothing to wait for
h=@HOLD@
export VM_CONSISTENCY_DIR=$d VM_CONSISTENCY_HOLD=$h
s starting
(
	# The agent's service may be stopped, and its children with it.
	trap 'w=stopped' TERM HUP INT
	w='' b='' c=''
	@QUIESCE@
	if [ -z "$w" ]; then
		s held
		[ $h -gt 0 ] || exit
		while [ -z "$w" ]; do
			[ $((h -= 1)) -ge 0 ] || w='its time is up'
			[ ! -e $d/end ] || w=ended
			[ "$w" ] || sleep 1
		done
	fi
	@RESUME@
	s over "${b:--}" "$w"
) </dev/null >/dev/null 2>&1 &
echo "$i started"
