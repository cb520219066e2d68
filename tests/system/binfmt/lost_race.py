"""lost_race.py catch-up|stop QEMU: register some platforms, then have those of another declaration follow, or undo.

Writes the names that are in the kernel's table in the end, as JSON. To be run where that table is nobody's.
"""

import json
import sys

import trio

from herdpy.binfmt import table
from herdpy.binfmt.entry import entry_of
from herdpy.binfmt.following import Follow
from herdpy.binfmt.platforms import PLATFORMS
from herdpy.binfmt.registration import Register, Unregister


class Context:
    """What the supervisor would offer; whoever waits for :attr:`remembered` goes on when the attendant has begun."""

    name = "qemu-binfmt"
    memory = ""

    def __init__(self):
        self.details = {}
        self.remembered = trio.Event()

    def detail(self, key, value):
        self.details[key] = value

    def progress(self, stage, done=None):
        print(stage, file=sys.stderr)

    async def remember(self, text):
        self.memory = text
        self.remembered.set()


async def main(what, qemu):
    def declared(*names, directory=qemu):
        return tuple(entry_of(PLATFORMS[name], f"{directory}/qemu-{name}-static", "FP") for name in names)

    context = Context()
    await Register(entries=declared("arm", "m68k")).run(context)
    if what == "stop":  # and somebody has put something else in a place of ours, and added what is none
        table.remove(declared("m68k")[0])
        table.add(declared("s390x")[0])
        await Unregister(entries=declared("riscv64")).run(context)
    else:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Follow(entries=declared("riscv64")).run, context)
            await context.remembered.wait()
            nursery.cancel_scope.cancel()
    print(json.dumps(table.names()))


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
