#!/bin/sh
# packages.sh run|test: see to it that Debian's packages that herdpy needs here are installed.
# Says which are missing and what for before it installs them; as an ordinary user through sudo, or else it says which
# command an administrator must run, and ends with 1.
set -eu

missing=
PATH=$PATH:/usr/sbin:/sbin
python=${PYTHON:-python3}

if command -v "$python" >/dev/null && ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "herdpy needs Python 3.11 or later, and $python is $("$python" -V 2>&1); name another one: make PYTHON=... $1"
    exit 1
fi

need() { # PACKAGE WHAT-FOR COMMAND...: the package is there when the command succeeds
    package=$1 purpose=$2
    shift 2
    "$@" >/dev/null 2>&1 && return
    echo "missing: $package ($purpose)"
    missing="$missing $package"
}

need python3-venv "herdpy's own Python environment" "$python" -c 'import ensurepip, venv'
need qemu-system-x86 "the virtual machine" command -v qemu-system-x86_64
need qemu-utils "disk images" command -v qemu-img
need mmdebstrap "building the guest's file system" command -v mmdebstrap
need e2fsprogs "building the guest's disk" command -v mke2fs
need openssh-client "commands in the guest, and its keys" command -v ssh-keygen
need uidmap "building the guest's file system without root" command -v newuidmap
if [ "$1" = test ]; then
    need openssh-server "tests of herd exec and herd offload" command -v sshd
    need guile-3.0 "tests of the protocol, and of what Guix would load" command -v guile
    need busybox "looking into the guest's initial RAM disk" command -v busybox
    need gcc "building the time trap on the host, too" command -v cc
    need libc6-dev "building the time trap on the host, too" test -e /usr/include/stdio.h
    need openssl "the certificate of the test of the time trap" command -v openssl
    need iproute2 "tests in a network namespace" command -v ip
    need strace "killing herdpy at each of its system calls" command -v strace
    need sudo "tests as an ordinary user" command -v sudo
    need zstd "tests of compressed logs" command -v zstd
    # Not libvirt-daemon-system, which would have the host's systemd start them.
    need libvirt-daemon "tests of libvirtd and virtlogd" test -x /usr/sbin/virtlogd
    need libvirt-clients "tests of libvirtd and virtlogd" command -v virt-admin
    need dbus "tests of libvirtd with polkit" test -e /usr/lib/dbus-1.0/dbus-daemon-launch-helper
    need polkitd "tests of libvirtd with polkit" test -e /usr/share/polkit-1/actions/org.freedesktop.policykit.policy
    need systemd "tests of the units, in a jail" test -x /lib/systemd/systemd
    need procps "tests of the units" command -v pgrep
    need augeas-tools "checking libvirt's configuration files" command -v augtool
fi
[ -n "$missing" ] || exit 0

install="apt-get install -y --no-install-recommends$missing"
if [ "$(id -u)" = 0 ]; then
    echo "installing:$missing"
    apt-get update -qq || echo "apt-get update failed; trying with the lists that are there"
    DEBIAN_FRONTEND=noninteractive $install >/dev/null
elif command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
    echo "installing, with sudo:$missing"
    sudo apt-get update -qq
    sudo env DEBIAN_FRONTEND=noninteractive $install >/dev/null
else
    echo "They need root to install. Ask an administrator to run: apt-get update && $install"
    exit 1
fi
