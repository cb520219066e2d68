"""What a timer does when asked: ``herd trigger NAME``, ``herd runs NAME``."""

from collections.abc import Sequence

import msgspec

from herdpy.service import Action, ActionContext, ActionFailure


class Trigger(msgspec.Struct, frozen=True):
    """Run the command now; its schedule goes on as it is."""

    async def run(self, context: ActionContext, arguments: Sequence[str]) -> object:
        """Have a run begin.

        Raises:
            ActionFailure: the timer is stopped, or may not run twice at once.
        """
        if arguments:
            raise ActionFailure(f"trigger takes no arguments, and {' '.join(arguments)} was given")
        context.print(await context.ask("trigger"))
        return None


class ShowRuns(msgspec.Struct, frozen=True):
    """Tell the past runs, the one under way, and when the next ones begin."""

    async def run(self, context: ActionContext, arguments: Sequence[str]) -> object:
        """Tell them line by line, or with ``--json`` as one text.

        Raises:
            ActionFailure: the timer is stopped.
        """
        if list(arguments) == ["--json"]:
            return await context.ask("runs", "--json")
        if arguments:
            raise ActionFailure(f"runs takes no arguments but --json, and {' '.join(arguments)} was given")
        for line in (await context.ask("runs")).splitlines():
            context.print(line)
        return None


TRIGGER = Action(name="trigger", documentation="Run the command now, whatever the schedule.", operation=Trigger())
RUNS = Action(name="runs", documentation="Show the past runs and the next ones.", operation=ShowRuns(), right="read")
