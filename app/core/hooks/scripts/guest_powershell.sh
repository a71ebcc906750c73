# Steps for PowerShell: each is one call, with its code as the base64 of UTF-16 that -EncodedCommand takes.
# step NAME SECONDS CODE
step() {
	local answer
	answer=$(timeout $(($2 + 7)) virt-probe --domainName "$domain" --timeoutSeconds "$2" --command powershell.exe -- \
		-NoProfile -NonInteractive -EncodedCommand "$3" 2>/dev/null </dev/null | clean) ||
		wrong "step $1 ended with $?: $answer"
}

# Arguments are NAME SECONDS CODE of every quiesce step, `--`, and the same of every resume step.
quiesce() {
	shift
	while [ "$1" != -- ] && [ -z "$problem" ]; do
		step "$1" "$2" "$3"
		shift 3
	done
}

resume() {
	while [ "$1" != -- ]; do shift; done
	shift
	while [ $# -gt 0 ]; do
		step "$1" "$2" "$3"
		shift 3
	done
}

abandon() { resume "$@"; }
