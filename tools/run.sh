#!/bin/sh
# run.sh BIN: start herdpy unless it answers, boot the build machine, show its clock.
set -eu
bin=$1

"$bin/herd" status root >/dev/null 2>&1 || "$bin/herdpy" --background
"$bin/herd" start build-vm
echo
echo "Here it is $(LC_ALL=C date -u). In the build machine:"
"$bin/herd" exec build-vm -- date -u
cat <<END

herdpy and the build machine go on running. Try:
    $bin/herd status
    $bin/herd configuration build-vm
    $bin/herd exec build-vm                                  a shell in it (Ctrl-D leaves)
    $bin/herd offload build-vm -C DIRECTORY -- make check    a command in it, on a copy of DIRECTORY
    make stop                                                end all of it
END
