#!/bin/sh
# Builds a guest's image: DIRECTORY/KEY/{disk.qcow2,vmlinuz,initrd,recipe.json}, from Debian packages alone.
#
#   build.sh DIRECTORY KEY SUITE SIZE ARCHITECTURE KERNEL PACKAGES PYTHON RECIPE SOURCE...
#
# SIZE in bytes; PACKAGES with commas between; RECIPE is what recipe.json is to hold; each SOURCE a line of
# sources.list(5). It is run by unshare(1) as root of a mount and process namespace of its own (and, for an ordinary
# user, of a user namespace), so that its mounts and processes end with it, however it ends. What it leaves is
# DIRECTORY/.building-KEY, locked while it is at work; whoever comes next removes it.
set -eu
umask 022
export LC_ALL=C PATH="$PATH:/usr/sbin:/sbin" SOURCE_DATE_EPOCH=1577836800 # 2020-01-01: no file is younger than the guest's clock
unset TMPDIR

fail() { echo "error $*"; exit 1; }
progress() { echo "progress $*"; }

[ $# -ge 10 ] || fail "build.sh wants ten arguments or more, got $#"
directory=$1 key=$2 suite=$3 size=$4 architecture=$5 kernel=$6 packages=$7 python=$8 recipe=$9
shift 9
case $directory in /?*) ;; *) fail "refusing to build in '$directory': not an absolute path below /" ;; esac
[ ! "$directory" -ef / ] || fail "refusing to build in /"
case $key in '' | *[!0-9a-z]*) fail "refusing the key '$key'" ;; esac
[ "$(readlink /proc/self/ns/mnt)" != "$(readlink "/proc/$PPID/ns/mnt" 2>/dev/null)" ] || fail "build.sh must be started by unshare --mount"
here=$(dirname "$(realpath "$0")")

# Lock the temporary directory itself: there is no lock file to be left behind. Its last owner removed it before it let
# go, so look whether what was locked is still what the name means.
work=$directory/.building-$key
point=
waited=
while :; do
  mkdir -p -m 700 "$work"
  exec 9<"$work"
  if ! flock -n 9; then
    [ -n "$waited" ] || progress 0 waiting for another build of the same image
    waited=1
    flock 9
  fi
  [ ! "$work" -ef /proc/self/fd/9 ] || break
done
cd "$work"

clean() {
  status=$?
  trap - EXIT
  [ -z "$point" ] || umount -l "$point" 2>/dev/null || :
  cd "$directory"
  rm -rf --one-file-system "$work"
  exit $status
}
trap clean EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
find . -mindepth 1 -delete

complete() { [ -f "$1/disk.qcow2" ] && [ -f "$1/vmlinuz" ] && [ -f "$1/initrd" ] && [ -f "$1/recipe.json" ]; }
if complete "../$key"; then
  progress 1 ready
  exit 0
fi

cp -R "$here" guest
mkdir tree out kernel
# apt downloads as the user _apt, who cannot pass a 0700 directory: in this namespace there is a way around it. It must
# not hide where we are, nor Python: a disk that is mounted on /mnt is a likely place for either.
for candidate in /mnt /media /srv; do
  [ -d "$candidate" ] || continue
  for needed in "$PWD" "$(pwd -P)" "$python" "$(realpath "$python")"; do
    case $needed in "$candidate"/*) continue 2 ;; esac
  done
  mount --bind tree "$candidate"
  point=$candidate
  break
done
[ -n "$point" ] || fail "there is no directory to mount the guest's tree on: /mnt, /media or /srv must be there, and free of herdpy"
mkdir -m 1777 tree/tmp

# mmdebstrap's apt reads nothing of the host's apt.conf; how to reach the network is in there.
apt-config dump | grep -E '^Acquire::(https?|ftp|socks5h|Retries|ForceIPv[46]|Check-(Valid-Until|Date)|Max-FutureTime)\b' |
  grep -v ' "";$' >apt.conf || :
echo 'Acquire::Retries "3";' >>apt.conf
echo 'quiet::NoUpdate "true";' >>apt.conf

progress 0.01 reading the package lists
export HERDPY_GUEST="$work/guest" HERDPY_KERNEL="$kernel"
# What mmdebstrap leaves in /tmp when it is killed is to be left here.
TMPDIR=$point/tmp mmdebstrap --verbose --mode=root --format=directory --variant=minbase --architectures="$architecture" \
  --components=main --include="$packages" --aptopt="$PWD/apt.conf" \
  --aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Languages "none"' \
  --dpkgopt='force-unsafe-io' \
  --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
  --dpkgopt='path-exclude=/usr/share/info/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
  --dpkgopt='path-include=/usr/share/doc/*/copyright' \
  --customize-hook='sh "$HERDPY_GUEST/customize.sh" "$1"' \
  "$suite" "$point/root" "$@" </dev/null 2>&1

progress 0.80 taking the kernel apart
deb=$(ls tree/kernel/*.deb)
dpkg-deb --fsys-tarfile "$deb" | tar -x -C kernel
rm -rf tree/kernel
cp kernel/boot/vmlinuz-* out/vmlinuz
"$python" -I -S guest/initrd.py out/initrd kernel tree/root/bin/busybox guest/init
rm -rf kernel

progress 0.83 writing the file system
find tree/root/dev -mindepth 1 -delete # only root of the host can make devices; the guest's come from devtmpfs
find tree/root -newermt "@$SOURCE_DATE_EPOCH" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
# An own configuration and an explicit list of features: the bytes are not to depend on the host's mke2fs.conf.
: >mke2fs.conf
uuid=$(echo "$key" | sed 's/^\(.\{8\}\)\(.\{4\}\).\(.\{3\}\).\(.\{3\}\)\(.\{12\}\).*/\1-\2-4\3-8\4-\5/')
export E2FSPROGS_FAKE_TIME=$SOURCE_DATE_EPOCH MKE2FS_CONFIG="$PWD/mke2fs.conf"
truncate -s "$size" disk.raw
features=none,has_journal,ext_attr,dir_index,filetype,extent,flex_bg,sparse_super,large_file,huge_file,dir_nlink
mke2fs -q -F -t ext4 -b 4096 -I 256 -i 16384 -m 1 -J size=32 -O "$features,extra_isize,uninit_bg,resize_inode" -L root \
  -U "$uuid" -E "hash_seed=$uuid,lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0" -d tree/root disk.raw
# mke2fs before 1.47.1 takes access and change times from the tree, and nobody can set a change time there.
dumpe2fs -h disk.raw 2>/dev/null >superblock
used=$(awk '/^Inode count:/{c=$3} /^Free inodes:/{f=$3} END{print c-f}' superblock)
{ echo 2; seq 11 "$used"; } | awk -v t="@$SOURCE_DATE_EPOCH" '{
  print "set_inode_field <" $1 "> ctime " t; print "set_inode_field <" $1 "> ctime_extra 0"
  print "set_inode_field <" $1 "> atime " t; print "set_inode_field <" $1 "> atime_extra 0" }' >times
debugfs -w -f times disk.raw >/dev/null 2>debugfs.log || { cat debugfs.log; fail "debugfs could not set the times"; }
rm -rf --one-file-system tree/root

progress 0.90 compressing the disk
# -p counts with carriage returns. One coroutine, writing in order: the clusters always lie in the file the same way.
{ qemu-img convert -p -m 1 -f raw -O qcow2 -c -o compression_type=zstd disk.raw out/disk.qcow2 2>&1 && : >compressed; } |
  stdbuf -oL tr '\r' '\n'
[ -e compressed ] || fail "qemu-img could not write the disk"
printf '%s\n' "$recipe" >out/recipe.json

progress 0.99 writing to the disk
chmod 644 out/*
sync out/disk.qcow2 out/vmlinuz out/initrd out/recipe.json out
[ ! -e "../$key" ] || mv -T "../$key" broken # what was there lacked a file
mv -T out "../$key"
sync ..
progress 1 ready
