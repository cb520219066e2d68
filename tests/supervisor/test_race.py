"""How long the supervisor waits for a process that asks for more time."""

import math

import pytest
import trio

from herdpy.supervisor.race import Patience


@pytest.mark.parametrize(("most", "waited"), [(math.inf, 1000.0), (600.0, 600.0), (1.0, 5.0)])
async def test_more_time_is_given_up_to_a_limit(autojump_clock: object, most: float, waited: float) -> None:
    begin = trio.current_time()
    patience = Patience(5.0, most)
    with patience.scope as waiting:
        await trio.sleep(4.0)
        patience.extend(996.0)
        patience.extend(1.0)  # it never takes any away
        await trio.sleep_forever()
    assert waiting.cancelled_caught
    assert trio.current_time() - begin == pytest.approx(waited)
