# quiesce SECONDS KEEPER
quiesce() {
	read -r run </proc/sys/kernel/random/uuid
	state=$(guest 5 "i=$run;IFS=;set -f;eval \$(echo $2|base64 -d)")
	case $state in
	"$run started") await $(($1 + 10)) held ;;
	"$run busy") run='' state='another run holds the application, until its time is up' ;;
	*) state="no guest agent, or guest-exec is forbidden: $state" ;;
	esac
	[ "$state" != "$run held" ] || return
	state=${state#"$run over "}
	wrong "quiesce: ${state#- }"
}

# abandon SECONDS: what another run holds is not ours to end.
abandon() {
	[ -n "$run" ] && [ "$1" -gt 0 ] && look || return
	case $state in
	"$run over "*) ;;
	"$run "*) finish "$1" ;;
	esac
}
