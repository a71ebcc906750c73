# The keeper, run by sh in the guest: quiesces, keeps the application so until the post hook leaves a word or its time is
# up, and resumes. $i names the run. Its status is one line: `RUN running STEP`, `RUN held`, `RUN resuming STEP`, or
# `RUN over FAILED-RESUMES|- WHY`. The lock goes with the process, whatever ends it.
# shellcheck disable=SC2154  # whoever starts it sets $i
unset IFS
set +f
u=$(umask)
umask 077
d=/run/vm-consistency
mkdir -p $d
touch $d/lock || {
	echo "$i can not write to $d"
	exit
}
exec 9>$d/lock
flock -n 9 || {
	[ $? = 1 ] && echo "$i busy" || echo "$i needs flock"
	exit
}
cd / && rm -f $d/end.* $d/go.*
s() { echo "$i $*" >$d/new && mv -f $d/new $d/status; }
# x NAME SECONDS CODE: what it prints is cut, and does not stop it. A process that it leaves behind with its output open
# keeps the reader and not the keeper, and a full /run costs the output and not the step.
x() {
	s "$1" "$2"
	shift
	rm -f $d/out $d/pipe
	o=/dev/null
	if mkfifo $d/pipe; then
		o=$d/pipe
		{
			head -c 300 >$d/out
			cat >/dev/null
		} <$o 9>&- &
	fi
	umask "$u"
	timeout -k 2 "$2" sh -c "$3" </dev/null >$o 2>&1 9>&-
	c=$?
	umask 077
	return $c
}
q() {
	[ -z "$w" ] || return
	x running "$@" && return
	sleep 1
	w="step $1 ended with $c: $(cat $d/out)"
}
r() { x resuming "$@" || b=$b${b:+,}$1:$c; }
# 0: there is nothing to resume, so nothing to wait for
h=@HOLD@
export VM_CONSISTENCY_DIR=$d VM_CONSISTENCY_HOLD=@LIMIT@
s starting || {
	echo "$i can not write to $d"
	exit
}
(
	# The agent's service may be stopped, and its children with it.
	trap 'w=stopped' TERM HUP INT
	w='' b='' c='' n=0
	# Whoever started this may have given up before it came to run.
	until [ -e $d/go.$i ]; do
		[ $((n += 1)) -le 20 ] || exit
		sleep 1
	done
	@QUIESCE@
	[ ! -e $d/end.$i ] || w=${w:-ended}
	if [ -z "$w" ]; then
		s held
		[ $h -gt 0 ] || exit
		while [ -z "$w" ]; do
			[ $((h -= 1)) -ge 0 ] || w='its time is up'
			[ ! -e $d/end.$i ] || w=ended
			[ "$w" ] || sleep 1
		done
	fi
	@RESUME@
	s over "${b:--}" "$w"
) </dev/null >/dev/null 2>&1 &
echo "$i started"
