"""A program for tests: build an image with a context of real processes, and tell in JSON lines what happens.

build_image.py DIRECTORY RECIPE [SPACE_NEEDED]: RECIPE in JSON; SPACE_NEEDED in bytes, instead of herdpy's own.
build_image.py prune DIRECTORY KEY...: remove all images but these.
"""

import json
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec
import trio

from herdpy.qemu import image
from herdpy.service import Completed, Context, StartFailure


def tell(**what: object) -> None:
    print(json.dumps(what), flush=True)


class ProcessContext:
    """What the supervisor gives to a step, without a supervisor."""

    name = "test"

    def progress(self, stage: str, done: float | None = None) -> None:
        tell(stage=stage, done=done)

    def detail(self, key: str, value: str | None) -> None:
        tell(key=key, value=value)

    async def command(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        directory: str | None = None,
        user: str | None = None,
        on_line: Callable[[str], None] | None = None,
    ) -> Completed:
        process = await trio.lowlevel.open_process(
            list(command),
            env=environment,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert process.stdout is not None
        output = rest = b""
        try:
            async for chunk in process.stdout:
                output = (output + chunk)[-65536:]
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    if on_line is not None:
                        on_line(line.decode(errors="replace"))
            status = await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                with trio.CancelScope(shield=True):
                    await process.wait()
        return Completed(status=status, output=output.decode(errors="replace"))

    async def once(self, key: str, make: Callable[[Context], Awaitable[None]]) -> None:
        await make(self)


async def main(directory: str, recipe: str, *space_needed: str) -> None:
    if space_needed:
        image.SPACE_NEEDED = int(space_needed[0])
    step = image.BuildImage(recipe=msgspec.json.decode(recipe, type=image.Recipe), directory=directory)
    with trio.open_signal_receiver(2) as signals:
        async with trio.open_nursery() as nursery:

            async def cancel_on_interrupt() -> None:
                async for _ in signals:
                    nursery.cancel_scope.cancel()

            nursery.start_soon(cancel_on_interrupt)
            try:
                await step.run(ProcessContext())
            except StartFailure as failure:
                tell(failed=str(failure), details=failure.details)
            else:
                tell(built=image.key(step.recipe))
            nursery.cancel_scope.cancel()


async def prune(directory: str, *keep: str) -> None:
    tell(pruned=await image.prune(ProcessContext(), directory, keep))


if __name__ == "__main__":
    if sys.argv[1] == "prune":
        trio.run(prune, sys.argv[2], *sys.argv[3:])
        sys.exit()
    trio.run(main, sys.argv[1], sys.argv[2], *sys.argv[3:])
