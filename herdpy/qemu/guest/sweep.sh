#!/bin/sh
# Removes what interrupted builds have left: sweep.sh DIRECTORY NAME... A build that is at work holds the lock on its own.
set -eu
directory=$1
shift
cd "$directory"
for name in "$@"; do
  case $name in .building-?*) ;; *) echo "error refusing to remove '$name'"; exit 1 ;; esac
  case $name in */*) echo "error refusing to remove '$name'"; exit 1 ;; esac
  exec 9<"$name" || continue
  if flock -n 9; then rm -rf --one-file-system "$name"; fi
  exec 9<&-
done
