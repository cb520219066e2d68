#!/bin/sh
# Removes what interrupted builds have left: sweep.sh DIRECTORY SECONDS NAME...
# A build that is at work holds the lock on its directory; so do, for a moment, the processes of one that was killed.
set -eu
directory=$1 patience=$2
shift 2
cd "$directory"
for name in "$@"; do
  case $name in .building-?*) ;; *) echo "error refusing to remove '$name'"; exit 1 ;; esac
  case $name in */*) echo "error refusing to remove '$name'"; exit 1 ;; esac
  exec 9<"$name" || continue
  if flock -w "$patience" 9; then rm -rf --one-file-system "$name"; fi
  exec 9<&-
done
