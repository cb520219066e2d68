#!/bin/sh
# stop.sh BIN: stop herdpy and all that it runs; returns when nothing of it is left.
set -eu
bin=$1

if ! "$bin/herd" status root >/dev/null 2>&1; then
    echo "herdpy is not running."
    exit 0
fi
"$bin/herd" stop root
echo "herdpy and all its services have stopped."
