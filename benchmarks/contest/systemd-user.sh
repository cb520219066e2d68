#!/bin/sh
# systemd-user.sh CGROUP UID: execute systemd --user as this user, in a control group that is its own.
#
# A systemd moves all processes that are in its control group into others. In here there is no other than CGROUP: it is
# the root of a control group namespace, and the only one that is mounted. Before systemd is executed, it is looked at
# whether anybody else is in it, and refused if so.
set -eu
cgroup=$1
user=$2
if [ "${HERDPY_JAIL-}" != inside ]; then
    [ "$user" != 0 ] || { echo "refused: root's user instance"; exit 1; }
    [ -z "$(cat "$cgroup/cgroup.procs")" ] || { echo "refused: somebody is in $cgroup"; exit 1; }
    [ "$(stat -f -c %T "$cgroup")" = cgroup2fs ] || { echo "refused: $cgroup is no control group (v2)"; exit 1; }
    [ -e "$cgroup/cgroup.type" ] || { echo "refused: $cgroup is the root"; exit 1; } # which alone has no such file
    chown "$user:$user" "$cgroup" "$cgroup/cgroup.procs" "$cgroup/cgroup.subtree_control" "$cgroup/cgroup.threads"
    echo $$ >"$cgroup/cgroup.procs"
    export HERDPY_JAIL=inside
    exec unshare --mount --propagation private --cgroup sh "$0" "$@"
fi
unset HERDPY_JAIL
umount -R -l /sys/fs/cgroup 2>/dev/null || :
mount -t tmpfs -o mode=755 none /run                    # no other systemd, no bus, no journal
mkdir -p /run/systemd/system                            # by which it knows that the machine runs systemd (sd_booted(3))
mount -t cgroup2 none /sys/fs/cgroup
while read -r pid; do
    [ "$pid" = $$ ] || { echo "refused: PID $pid is in its control group"; exit 1; }
done </sys/fs/cgroup/cgroup.procs
[ -e /sys/fs/cgroup/cgroup.type ] || { echo "refused: this is the root of all control groups"; exit 1; }
exec setpriv --reuid="$user" --regid="$user" --clear-groups --bounding-set=-all --no-new-privs \
    /lib/systemd/systemd --user --unit=default.target --log-target=console
