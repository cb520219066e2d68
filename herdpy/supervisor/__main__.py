"""``python -I -m herdpy.supervisor DESCRIPTOR PATHS``: started by the keeper, with its line and where things lie."""

import resource
import sys
from functools import partial

import trio

from herdpy.paths import Paths
from herdpy.supervisor.declared import declared_in, declared_plan, remade
from herdpy.supervisor.run import supervise


def main(arguments: list[str]) -> None:
    # Connections are descriptors, and the usual soft limit is 1,024 (getrlimit(2)). Services are the keeper's children.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    descriptor, paths = int(arguments[0]), Paths.from_json(arguments[1])
    trio.run(
        supervise, descriptor, partial(declared_plan, paths), partial(remade, paths), partial(declared_in, paths), paths
    )


if __name__ == "__main__":
    main(sys.argv[1:])
