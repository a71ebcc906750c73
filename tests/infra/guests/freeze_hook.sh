#!/bin/sh
# The guest agent's freeze hook (qemu-ga -F): what a test has put into /run/guest-test/freeze or .../thaw, run before the
# freeze and after the thaw. As with any such hook, a status that is not 0 makes the agent refuse the freeze.
[ -f "/run/guest-test/$1" ] || exit 0
# shellcheck disable=SC1090
. "/run/guest-test/$1"
