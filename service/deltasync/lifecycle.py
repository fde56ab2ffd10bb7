"""The service's life: starting, running, draining, stopped or failed; SIGTERM and SIGINT begin the draining."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from enum import Enum
from types import FrameType


class State(Enum):
    """STARTING → RUNNING → DRAINING → STOPPED, or FAILED from anywhere."""

    STARTING = "starting"
    RUNNING = "running"
    DRAINING = "draining"
    STOPPED = "stopped"
    FAILED = "failed"


# A batch that is being applied has this long to end by itself; then it is cancelled and rolled back.
# compose and Kubernetes kill after 30 s, and the promise is 10.
DRAIN_S_MAX = 5.0
# A loop that has not turned for this long hangs; a transaction may take as long as the replica lets it (300 s).
TURN_S_MAX = 30.0
APPLY_S_MAX = 330.0


class Lifecycle:
    """Holds the state; `stop` may be called from a signal handler or another thread, and twice.

    `clock` tells seconds that never go back: the time by which the whole loop goes.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.state = State.STARTING
        self.clock = clock
        self._stop = threading.Event()
        self._turns_until = clock() + TURN_S_MAX
        self._overdue: list[Callable[[], None]] = []

    @property
    def running(self) -> bool:
        return not self._stop.is_set()

    @property
    def alive(self) -> bool:
        """False if the loop hangs: it did not turn within the time that it took for itself."""
        return self.clock() < self._turns_until

    def turns(self, within_s: float = TURN_S_MAX) -> None:
        """Called by the loop at every turn, and before anything that takes longer."""
        self._turns_until = self.clock() + within_s

    def to(self, state: State) -> None:
        self.state = state

    def on_overdue(self, act: Callable[[], None]) -> None:
        """What to do if draining takes longer than DRAIN_S_MAX; runs on a thread of its own."""
        self._overdue.append(act)

    def stop(self) -> None:
        """Begin to drain. Does not wait."""
        if self._stop.is_set():
            return
        self._stop.set()
        self.state = State.DRAINING
        for act in self._overdue:
            timer = threading.Timer(DRAIN_S_MAX, act)
            timer.daemon = True
            timer.start()

    def wait(self, seconds: float) -> bool:
        """Sleep, but wake at once for `stop`; True if it was called."""
        return self._stop.wait(seconds)

    def handle_signals(self) -> None:
        """Let SIGTERM and SIGINT call `stop`; a second one ends the process at once."""

        def handle(number: int, _frame: FrameType | None) -> None:
            if self._stop.is_set():
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(number)
            self.stop()

        signal.signal(signal.SIGTERM, handle)
        signal.signal(signal.SIGINT, handle)
