# quiesce SECONDS KEEPER
quiesce() {
	local until=$((SECONDS + $1 + 20))
	read -r run </proc/sys/kernel/random/uuid
	state=$(guest 5 "i=$run;IFS=;set -f;eval \$(echo $2|base64 -d|gzip -d)")
	case $state in
	"$run started")
		while look "&&touch go.$run"; [[ $state != "$run over "* && $state != "$run held" && $SECONDS -lt $until ]]; do
			sleep 0.3
		done
		;;
	"$run busy") run='' state='another run holds the application, until its time is up' ;;
	*)
		state=${state#"$run "}
		run='' state="not started: ${state:-no guest agent, or guest-exec is forbidden, or gzip is missing}"
		;;
	esac
	[ "$state" != "$run held" ] || return
	state=${state#"$run over "}
	state=${state#- }
	wrong "quiesce: ${state:-no answer from the guest}"
}

# abandon SECONDS: what another run holds is not ours to end.
abandon() {
	[ -n "$run" ] && [ "$1" -gt 0 ] || return
	ask
	case $state in
	"$run over "*) ;;
	"$run "*) finish "$1" ;;
	'') wrong 'not resumed yet: no answer from the guest' ;;
	esac
}
