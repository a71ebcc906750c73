#!/bin/sh
# Process 1 of the test guest, in place of systemd, which takes half a minute under software emulation.
# The kernel's command line may say vmc.agent=none (no guest agent) or vmc.agent=blockexec (guest-exec is refused, as
# RHEL and its relatives ship it). What tests put into /run/guest-test is told at its use.
# PostgreSQL first: the psql in /usr/bin is a script of its packaging, and takes an emulated processor a second more.
export PATH=/usr/lib/postgresql/15/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root

say() { echo "guest: $*" >/dev/console; }

mount_unless_mounted() { mountpoint -q "$3" || { mkdir -p "$3" && mount -t "$1" "$2" "$3"; }; }

mount_unless_mounted proc proc /proc
mount_unless_mounted sysfs sysfs /sys
mount_unless_mounted devtmpfs devtmpfs /dev
mount_unless_mounted tmpfs tmpfs /run
mount_unless_mounted tmpfs tmpfs /tmp
mount_unless_mounted tmpfs tmpfs /dev/shm
mount -o remount,rw / || say "the root file system stays read-only"
chmod 1777 /tmp /dev/shm
mkdir -p /run/guest-test
# Commands that go past the agent come by the second serial port, a line each.
stty -F /dev/ttyS1 -echo
sh </dev/ttyS1 >/dev/ttyS1 2>&1 &
modprobe virtio_console || say "no virtio console"
mount LABEL=data /data || say "no data disk"

install -d -o postgres -g postgres /run/postgresql
rm -f /data/postgresql/postmaster.pid  # of a guest that was killed: nothing runs yet that it could mean
if runuser -u postgres -- /usr/lib/postgresql/15/bin/pg_ctl -D /data/postgresql -l /data/postgresql/log -w -t 120 start \
	>/dev/console 2>&1; then
	say "PostgreSQL accepts connections"
else
	say "PostgreSQL did not start"
	cat /data/postgresql/log >/dev/console
fi

agent_port() {
	for name in /sys/class/virtio-ports/*/name; do
		[ "$(cat "$name")" = org.qemu.guest_agent.0 ] && basename "$(dirname "$name")" && return
	done
}

case "$(sed -n 's/.*vmc.agent=\([a-z]*\).*/\1/p' /proc/cmdline)" in
none) say "ready without an agent" && while :; do sleep 3600; done ;;
blockexec) echo "--block-rpcs=guest-exec,guest-exec-status" >/run/guest-test/agent-options ;;
esac

# The agent starts again after its end, with the options that stand in /run/guest-test/agent-options by then.
say "ready"
while :; do
	# shellcheck disable=SC2046 # several options, none with a blank in it
	qemu-ga -m virtio-serial -p "/dev/$(agent_port)" -t /run -F/usr/local/sbin/freeze-hook -v \
		-l /run/qemu-ga.log $(cat /run/guest-test/agent-options 2>/dev/null)
	sleep 0.2
done
