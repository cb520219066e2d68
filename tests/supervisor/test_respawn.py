"""What follows an end, as the policy has it, compared with a plain reading of the policy."""

from hypothesis import given
from hypothesis import strategies as st

from herdpy.service import End, Respawn
from herdpy.supervisor.respawn import History

ENDS = st.lists(st.tuples(st.floats(0, 5), st.floats(0, 100)), max_size=20)
"""Of each end: seconds that the service was stopped before it, and that it ran."""


@given(ENDS, st.integers(1, 5), st.floats(0.5, 50))
def test_it_is_given_up_exactly_when_so_many_ends_lie_within_the_interval(ends, limit, interval):
    policy = Respawn(limit=limit, interval=interval)
    history, now, times = History(), 0.0, []
    for stopped, ran in ends:
        history.running_since = now + stopped
        now += stopped + ran
        times.append(now)
        verdict = history.judge(policy, End(reason="it exited with 1", code=1), now)
        expected = len(times) >= limit and now - times[-limit] <= interval
        assert verdict.disables == expected
        assert (verdict.delay is None) == expected


@given(ENDS, st.floats(0.01, 1), st.floats(1, 100), st.floats(1, 100))
def test_delays_double_until_it_was_well_for_long_enough(ends, delay, most, healthy):
    policy = Respawn(limit=1000, interval=1e-9, delay=delay, delay_limit=most, healthy_after=healthy)
    history, now, in_a_row = History(), 0.0, 0
    for stopped, ran in ends:
        history.running_since = began = now + stopped
        now = began + ran
        in_a_row = 1 if now - began >= healthy else in_a_row + 1
        verdict = history.judge(policy, End(reason="it exited with 1", code=1), now)
        wanted = min(most, delay * 2 ** (in_a_row - 1))
        assert verdict.delay is not None
        assert 0.9 * wanted <= verdict.delay <= 1.1 * wanted + 1e-9


def test_a_start_by_hand_forgets_what_was():
    policy = Respawn(limit=2, interval=1000)
    history, end = History(), End(reason="it exited with 1", code=1)
    assert not history.judge(policy, end, 1.0).disables
    history.forget()
    assert not history.judge(policy, end, 2.0).disables
    assert history.judge(policy, end, 3.0).disables


def test_ends_that_the_policy_leaves_at_that_do_not_count():
    policy = Respawn(limit=1, interval=1000, only_on_failure=True, success=(0, 42), final=(77,))
    history = History()
    assert history.judge(policy, End(reason="it exited with 42", code=42), 1.0).delay is None
    verdict = history.judge(policy, End(reason="it exited with 77", code=77), 1.0)
    assert (verdict.delay, verdict.disables) == (None, False)
    assert verdict.reason == "it exited with 77, after which it is not to be respawned"
    assert not history.deaths
    killed = End(reason="it was killed by SIGKILL", signal=9)
    assert history.judge(policy, killed, 1.0).disables, "a signal is no exit code"
