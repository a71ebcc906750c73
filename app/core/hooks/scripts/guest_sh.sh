# Steps for sh: a keeper in the guest runs them (keeper.sh); this side starts it and reads its status.
# virt-probe pastes arguments into JSON as they are (kubevirt v1.8.4, pkg/virt-launcher/virtwrap/agent), so they consist
# of characters that mean nothing there; it looks for the end of a command every tenth of its timeout.
guest() {
	timeout $(($1 + 7)) virt-probe --domainName "$domain" --timeoutSeconds "$1" --command /bin/sh -- -c "$2" 2>/dev/null </dev/null | clean
}

# look [CODE]: the status, after CODE in its folder; empty where the guest gave no answer.
look() { state=$(guest 2 "cd /run/vm-consistency${1-};head -c 4096 status||echo none"); }

# ask: look until there is an answer; a guest that was thawed a moment ago has other things to do.
ask() {
	local until=$((SECONDS + 15))
	while look; [ -z "$state" ] && [ "$SECONDS" -lt "$until" ]; do sleep 1; done
}

# finish SECONDS: have the keeper resume, and wait until it has.
finish() {
	local until=$((SECONDS + $1 + 10))
	while look "&&touch end.$run"; [ "$SECONDS" -lt "$until" ]; do
		case $state in
		"$run over "*) break ;;
		'' | "$run "*) sleep 0.3 ;;
		*) break ;;
		esac
	done
	case $state in
	"$run over - "*) ;;
	*) wrong "not resumed: ${state#"$run over "}" ;;
	esac
}
