"""The stage's folder from the begin of a command to its end, and what it tells meanwhile."""

from __future__ import annotations

import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.prepare import known
from bench.stage import Stage
from deltasync.cli import output
from deltasync.errors import PartError, UnreachableError
from deltasync.local import state as states
from deltasync.local.scratch import scratch_folder

_SCRATCH = ".deltasync-bench-"
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def stage_in(folder: Path | None) -> Iterator[Stage]:
    """Servers in a folder of the user's, which stay; or in a new one, which go with the end of the block."""
    if folder is not None:
        with states.locked(folder):
            folder.chmod(0o711)
            yield _started(Stage(folder.resolve()))
        return
    with scratch_folder(Path(tempfile.gettempdir()), _SCRATCH) as scratch, states.locked(scratch):
        made = Stage(scratch)
        try:
            yield _started(made)
        finally:
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_IGN)
            output.doing("Stopping everything")
            made.close()


def _started(stage: Stage) -> Stage:
    try:
        tell("starting the servers")
        stage.start()
    except PartError as error:
        raise UnreachableError(error.what, remedy=error.remedy) from error
    prepared = known(stage.folder)
    stage.tidy([name for one in prepared for name in (one.database, one.empty, one.base)])
    return stage


@contextmanager
def orderly_end() -> Iterator[None]:
    """What ends a command from outside is an interrupt to it."""
    for number in _SIGNALS:
        signal.signal(number, signal.default_int_handler)
    yield


def tell(text: str) -> None:
    """Say on standard error what is being done."""
    output.stderr.print(f"{time.strftime('%H:%M:%S')} {text}", markup=False, soft_wrap=True)
