# resume SECONDS
resume() {
	ask
	run=${state%% *}
	# It becomes part of a command for the guest, and of KubeVirt's JSON.
	[[ $run =~ ^[0-9a-f-]{36}$ ]] || run=-
	case $state in
	"$run held")
		finish "$1"
		[[ $state != "$run over "* || $state = "$run over - ended" ]] || wrong "not held to the end: ${state#"$run over "}"
		;;
	"$run over "*" time is up"* | "$run resuming "*) wrong 'the application was resumed before this hook: its time was up' ;;
	"$run running "*)
		# Its pre hook was given up and goes on: it must find its run over before it freezes.
		wrong 'the application was still being quiesced'
		finish "$1"
		;;
	*) wrong "nothing was held: ${state:-no answer from the guest}" ;;
	esac
}
