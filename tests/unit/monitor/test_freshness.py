"""The canary's age: clocks that disagree neither hide nor invent it."""

from __future__ import annotations

import pytest

from deltasync.monitor.freshness import Freshness

EPOCH_S = 1_800_000_000.0


def watch(freshness: Freshness, late_s: list[float], *, skew_s: float = 0.0, start: float = 0.0) -> float:
    """A beat a second, each so late when it is seen, by a source whose clock is `skew_s` behind ours."""
    now = start
    for number, late in enumerate(late_s):
        now = start + number
        written = EPOCH_S + now - late - skew_s
        freshness.saw(int(start) + number, written, clock_s=EPOCH_S + now, now=now)
    return now


def test_nothing_seen_has_no_age() -> None:
    assert Freshness().age_s(5.0) is None


def test_only_a_change_proves_anything() -> None:
    freshness = Freshness()
    freshness.saw(7, EPOCH_S, clock_s=EPOCH_S, now=0.0)
    freshness.saw(7, EPOCH_S, clock_s=EPOCH_S + 2, now=2.0)
    assert not freshness.proven
    freshness.saw(8, EPOCH_S + 1, clock_s=EPOCH_S + 4, now=4.0)
    assert freshness.proven


def test_a_beat_that_stands_still_ages() -> None:
    freshness = Freshness()
    now = watch(freshness, [0.2] * 3)
    assert freshness.age_s(now + 12) == pytest.approx(12.2)


def test_a_beat_that_comes_late_is_old_at_once() -> None:
    freshness = Freshness()
    now = watch(freshness, [300.0, 299.0])
    assert freshness.age_s(now) == pytest.approx(299.0)


@pytest.mark.parametrize("skew_s", [3600.0, -3600.0])
def test_an_error_of_the_clocks_stands_still(skew_s: float) -> None:
    freshness = Freshness()
    now = watch(freshness, [0.1, 0.9] * 20, skew_s=skew_s)
    age_s = freshness.age_s(now)
    assert age_s is not None
    assert age_s < 2
    assert freshness.age_s(now + 11) == pytest.approx(11 + age_s)


def test_a_backlog_is_not_taken_for_the_clocks() -> None:
    """It shrinks while it is worked off; and what comes late after that is late."""
    freshness = Freshness()
    now = watch(freshness, [600.0 - 3 * n for n in range(60)])
    assert freshness.age_s(now) == pytest.approx(600 - 3 * 59)
    now = watch(freshness, [0.2] * 40, start=100)
    assert freshness.age_s(now) == pytest.approx(0.0)
    now = watch(freshness, [50.2], start=200)
    assert freshness.age_s(now) == pytest.approx(50.0)


def test_a_measured_clock_leaves_nothing_to_guess() -> None:
    freshness = Freshness()
    freshness.measured(-120.0)
    now = watch(freshness, [30.0] * 60, skew_s=-120.0)
    assert freshness.age_s(now) == pytest.approx(30.0)
