#!/bin/sh
# stop.sh BIN: stop herdpy and all that it runs; returns when nothing of it is left.
set -eu
bin=$1

if ! said=$("$bin/herd" status root 2>&1 >/dev/null); then
    case $said in
        *"No such file or directory"* | *"not found"*)
            echo "herdpy is not running."
            exit 0
            ;;
        *"Connection refused"*)
            echo "herdpy was killed: what it ran may go on. Look for it: pgrep -a qemu-system; then end it: kill PID"
            exit 1
            ;;
    esac
    echo "$said"
    exit 1
fi
"$bin/herd" stop root
echo "herdpy and all its services have stopped."
