"""How old the canary is, although the source's clock is not ours: pure, all clocks are passed in.

Two measures, since each lies alone. The time since `beat` last changed needs no clock but ours, yet says
nothing of a beat that was late already when it came. `beat_at` says that, but in the source's time: the
difference to ours is its lateness plus the error of the clocks. That error is known where the source can
be asked for its time. Elsewhere it is told from lateness by this: a backlog grows or shrinks, the error of
a clock stands still.
"""

from __future__ import annotations

# Differences that stay within the first for as long as the second are the clocks'. A beat a second, read
# every two seconds, makes them vary by one second by itself.
_STEADY_WITHIN_S = 2.0
_STEADY_FOR_S = 30.0


class Freshness:
    """Watches the canary. `proven` once a beat came after the first one that was seen."""

    def __init__(self) -> None:
        self.proven = False
        self._beat: int | None = None
        self._seen_at = 0.0
        self._late_s = 0.0
        self._measured_s: float | None = None
        self._estimated_s: float | None = None
        self._window: list[tuple[float, float]] = []

    def measured(self, skew_s: float) -> None:
        """The source's clock was read: ours is this much ahead of it."""
        self._measured_s = skew_s

    def saw(self, beat: int, beat_at_s: float, *, clock_s: float, now: float) -> None:
        """The canary on the replica was read: `clock_s` since 1970 by our clock, `now` by the monotonic one."""
        if beat == self._beat:
            return
        self.proven = self._beat is not None
        self._beat, self._seen_at, self._late_s = beat, now, clock_s - beat_at_s
        if self.proven:
            self._estimate(now, self._late_s)

    @property
    def skew_s(self) -> float:
        """By how much our clock is ahead of the source's, as far as it is known."""
        if self._measured_s is not None:
            return self._measured_s
        return self._estimated_s or 0.0

    def age_s(self, now: float) -> float | None:
        """How long ago the source wrote the newest beat that is visible here; None if there is none."""
        if self._beat is None:
            return None
        return now - self._seen_at + max(0.0, self._late_s - self.skew_s)

    def _estimate(self, now: float, late_s: float) -> None:
        if self._estimated_s is not None:
            self._estimated_s = min(self._estimated_s, late_s)
            return
        self._window.append((now, late_s))
        values = [value for _, value in self._window]
        if max(values) - min(values) > _STEADY_WITHIN_S:
            self._window = [(now, late_s)]
        elif now - self._window[0][0] >= _STEADY_FOR_S:
            self._estimated_s = min(values)
