#!/bin/sh
# jail.sh DIRECTORY CGROUP PROGRAMS READ-ONLY...: a systemd as PID 1 of its own namespaces; it runs until it is killed.
#
# PROGRAMS has herd and herdpy. Its root file system is made here, of a tmpfs and of READ-ONLY directories of the host.
# Nothing of the host can be written but DIRECTORY/kmsg, its log, and DIRECTORY/herdpy, which is its /etc/herdpy: a
# systemd that shares a /tmp empties it, one that shares /dev or /proc/sys re-triggers udev and rewrites sysctls. Before
# systemd is executed, the table of mounts is looked at, and the jail refused if anything else can be written.
# DIRECTORY/units and DIRECTORY/user-units are the only units it knows.
set -eu
export LC_ALL=C
if [ "${HERDPY_JAIL-}" != inside ]; then
    cgroup=$2
    echo $$ >"$cgroup/cgroup.procs"
    export HERDPY_JAIL=inside
    exec unshare --pid --fork --kill-child --mount --propagation private --cgroup --uts --ipc --net sh "$0" "$@"
fi
directory=$1
programs=$3
shift 3
[ $$ = 1 ] || { echo "refused: not the first process of a namespace"; exit 1; }

new=$directory/root
mkdir -p "$new"
mount -t tmpfs -o mode=755 jail "$new"
cd "$new"
mkdir -p dev etc/herdpy proc sys run tmp var/log var/lib var/tmp var/cache root home units user-units old
chmod 1777 tmp var/tmp
ln -s /run var/run
for path in /bin /sbin /lib /lib32 /lib64; do
    if [ -L "$path" ]; then cp -a "$path" ".$path"; elif [ -d "$path" ]; then set -- "$@" "$path"; fi
done
for path in "$@"; do
    mkdir -p ".$path"
    mount --bind "$path" ".$path"
    mount -o remount,bind,ro ".$path"
done
mount -t tmpfs -o mode=755 jail usr/local/bin
for name in herd herdpy; do ln -s "$programs/$name" usr/local/bin/$name; done
for name in passwd group nsswitch.conf ld.so.cache os-release; do cp -L "/etc/$name" etc/; done
echo 'tester:x:12345:12345::/home/tester:/bin/sh' >>etc/passwd
echo 'tester:x:12345:' >>etc/group
mkdir -m 700 home/tester && chown 12345:12345 home/tester
mkdir -p etc/systemd/system
tr -d - </proc/sys/kernel/random/uuid >etc/machine-id # without one it would be a first boot, which enables all units
mount --bind "$directory/herdpy" etc/herdpy
for kind in units user-units; do
    cp -r "$directory/$kind" .
done

mount -t proc proc proc
for path in proc/sys proc/sysrq-trigger; do
    [ -e $path ] || continue
    mount --bind $path $path
    mount -o remount,bind,ro $path
done
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 jail dev
for name in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0; do
    IFS=: read -r node major minor <<NODE
$name
NODE
    mknod -m 666 "dev/$node" c "$major" "$minor"
done
mkdir dev/pts dev/shm
: >dev/kmsg
: >"$directory/kmsg"
mount --bind "$directory/kmsg" dev/kmsg
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount -t tmpfs -o mode=755 jail run
ip link set lo up

pivot_root . old
cd /
umount -l old
rmdir old
while read -r _ _ _ _ where options rest; do
    case $options in rw*) ;; *) continue ;; esac
    rest=${rest#*- }
    case ${rest%% *} in tmpfs | proc | cgroup2 | devpts) continue ;; esac
    case $where in /etc/herdpy | /dev/kmsg) continue ;; esac
    echo "refused: $where of the host can be written in here"
    exit 1
done </proc/self/mountinfo

export container=jail SYSTEMD_UNIT_PATH=/etc/systemd/system:/units PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin
unset HERDPY_JAIL
exec setpriv --bounding-set=-sys_time,-sys_module,-sys_rawio,-syslog,-audit_control,-mac_admin,-wake_alarm \
    /lib/systemd/systemd --system --unit=multi-user.target --log-target=kmsg --show-status=false </dev/null
