"""``python -I -m herdpy.supervisor DESCRIPTOR PATHS``: started by the keeper, with its line and where things lie."""

import os
import resource
import sys
from functools import partial

import trio

from herdpy.paths import Paths
from herdpy.supervisor.declared import declared_in, declared_plan, remade
from herdpy.supervisor.line import Refused
from herdpy.supervisor.log import log
from herdpy.supervisor.run import supervise


def main(arguments: list[str]) -> None:
    # Connections are descriptors, and the usual soft limit is 1,024 (getrlimit(2)). Services are the keeper's children.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    descriptor, paths = int(arguments[0]), Paths.from_json(arguments[1])
    read = partial(declared_plan, paths), partial(remade, paths), partial(declared_in, paths)
    try:
        trio.run(supervise, descriptor, *read, paths)
    except BaseExceptionGroup as group:
        # Killed before it could tell us how to follow it. What was asked of it meanwhile is refused.
        gone, other = group.split((EOFError, Refused))
        if other is not None or gone is None or gone.subgroup(EOFError) is None:
            raise
        log("keeper-gone", pid=os.getpid())
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
