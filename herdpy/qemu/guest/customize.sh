#!/bin/sh
# A hook of mmdebstrap: makes a Debian tree the guest's. customize.sh CHROOT, which it insists on.
set -eu
refuse() { echo "error refusing to customize ${1:-a host}: ${2:-}" >&2; exit 1; }
root=${1:-}
[ -n "$root" ] || refuse "" "no chroot path was given"
case $root in /?*) ;; *) refuse "$root" "not an absolute path below /" ;; esac
for place in "" /etc /usr; do
  [ ! "$root$place" -ef "$place/" ] || refuse "$root" "it is the host itself"
done
[ -f "$root/var/lib/dpkg/status" ] && [ -n "${MMDEBSTRAP_APT_CONFIG:-}" ] || refuse "$root" "it is no tree that mmdebstrap is building"
umask 022

# The kernel is unpacked outside of the image, not installed: no initramfs-tools, no boot loader, no /boot.
mkdir "$root/../kernel"
package=$(APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-cache depends --important "$HERDPY_KERNEL" | sed -n 's/^ *Depends: \(linux-image-[^ ]*\)$/\1/p' | head -n 1)
[ -n "$package" ] || { echo "error $HERDPY_KERNEL depends on no kernel in the package lists"; exit 1; }
(cd "$root/../kernel" && APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-get -o APT::Sandbox::User=root download "$package")

echo 'offloading:x:1000:1000::/home/offloading:/bin/bash' >>"$root/etc/passwd"
echo 'offloading:x:1000:' >>"$root/etc/group"
echo 'offloading:*:18262:0:99999:7:::' >>"$root/etc/shadow" # * and not !: without PAM sshd takes ! for a locked account
echo 'offloading:!::' >>"$root/etc/gshadow"
install -d -m 700 -o 1000 -g 1000 "$root/home/offloading"

(cd "$HERDPY_GUEST/overlay" && find . -type f) | while read -r file; do
  case $file in ./usr/lib/herdpy/* | ./etc/acpi/*) mode=755 ;; *) mode=644 ;; esac
  install -D -m "$mode" "$HERDPY_GUEST/overlay/$file" "$root/$file"
done
install -d -m 755 "$root/etc/ssh/authorized_keys.d"
ln -s /bin/busybox "$root/sbin/init"
for applet in halt ip poweroff ps reboot top vi; do
  [ -n "$(chroot "$root" sh -c "command -v $applet" || :)" ] || ln -s /bin/busybox "$root/sbin/$applet"
done
echo 'nameserver 10.0.2.3' >"$root/etc/resolv.conf"
echo guest >"$root/etc/hostname"
printf '127.0.0.1 localhost\n::1 localhost\n' >"$root/etc/hosts"

# OpenSSH 9.8 punishes an address whose connections come to nothing; behind slirp there is one address for everybody.
if chroot "$root" /usr/sbin/sshd -T -o PerSourcePenalties=no >/dev/null 2>&1; then
  echo 'PerSourcePenalties no' >>"$root/etc/ssh/sshd_config.d/herdpy.conf"
fi

# Caches, logs and keys: they differ from build to build, or must not be the same in all guests.
rm -rf "$root"/etc/ssh/ssh_host_* "$root"/etc/passwd- "$root"/etc/group- "$root"/etc/shadow- "$root"/etc/gshadow- \
  "$root"/etc/subuid- "$root"/etc/subgid- "$root"/var/cache/debconf/*-old "$root"/var/lib/dpkg/*-old \
  "$root"/var/cache/ldconfig/aux-cache "$root"/etc/apt/apt.conf.d/99mmdebstrap "$root"/boot/* "$root"/etc/machine-id
find "$root/var/log" -type f -delete
find "$root/usr" -name __pycache__ -prune -exec rm -rf {} +
: >"$root/etc/machine-id"
