"""``python -I -m herdpy.supervisor DESCRIPTOR PATHS``: started by the keeper, with its line and where things lie."""

import sys
from functools import partial

import trio

from herdpy.paths import Paths
from herdpy.supervisor.declared import declared_in, declared_plan, remade
from herdpy.supervisor.run import supervise


def main(arguments: list[str]) -> None:
    descriptor, paths = int(arguments[0]), Paths.from_json(arguments[1])
    trio.run(
        supervise, descriptor, partial(declared_plan, paths), partial(remade, paths), partial(declared_in, paths), paths
    )


if __name__ == "__main__":
    main(sys.argv[1:])
