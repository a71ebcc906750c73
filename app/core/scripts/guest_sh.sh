# Steps for sh: a keeper in the guest runs them (keeper.sh); this side starts it and reads its status.
# virt-probe pastes arguments into JSON as they are (kubevirt v1.8.4, pkg/virt-launcher/virtwrap/agent), so they consist
# of characters that mean nothing there; it looks for the end of a command every tenth of its timeout.
guest() {
	timeout $(($1 + 7)) virt-probe --domainName "$domain" --timeoutSeconds "$1" --command /bin/sh -- -c "$2" 2>/dev/null </dev/null | clean
}

look() { state=$(guest 2 'head -c 4096 /run/vm-consistency/status'); }

# await SECONDS WORD: until the run is over or its status is WORD.
await() {
	local until=$((SECONDS + $1))
	while look; [[ $state != "$run over "* && $state != "$run $2" ]]; do
		[ "$SECONDS" -lt "$until" ] || return
		sleep 0.3
	done
}

# finish SECONDS: have the keeper resume, and wait until it has.
finish() {
	guest 2 'cd /run/vm-consistency && : >end' >/dev/null
	await $(($1 + 10)) over
	case $state in
	"$run over - "*) ;;
	*) wrong "not resumed: ${state#"$run over "}" ;;
	esac
}
