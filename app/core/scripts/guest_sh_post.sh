# resume SECONDS
resume() {
	ask
	run=${state%% *}
	case $state in
	"$run held")
		finish "$1"
		[[ $state != "$run over "* || $state = "$run over - ended" ]] || wrong "not held to the end: ${state#"$run over "}"
		;;
	"$run over "*" time is up"*) wrong 'the application was resumed before this hook: its time was up' ;;
	*) wrong "nothing was held: ${state:-no answer from the guest}" ;;
	esac
}
