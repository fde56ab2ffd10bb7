"""`deltasync run`: the service itself."""

from __future__ import annotations

import gc
import sys

from deltasync import settings as settings_module
from deltasync.cli import logs
from deltasync.kafka.consumer import Consumer
from deltasync.lifecycle import Lifecycle, State
from deltasync.monitor.metrics import Metrics
from deltasync.monitor.readiness import Readiness
from deltasync.monitor.server import Server
from deltasync.pipeline import Pipeline
from deltasync.replica.session import Replica
from deltasync.transactional import TransactionalPipeline

_SWITCH_S = 0.0005


def run() -> None:
    """Apply changes from Kafka to the replica until SIGTERM or Ctrl-C.

    Start as many as there is work for: they share the tables of one pipeline. A worker that is
    stopped finishes its transaction, or rolls it back, within 10 seconds; one that is killed loses
    nothing.

    Exit code 0: it was stopped. 1: it may not start, or a promise would break. 2: a setting is wrong. 3: the replica
    failed for longer than `retry_s_max`, or a server does not answer.

    Example: `DELTASYNC_REPLICA_DSN=… DELTASYNC_KAFKA_BOOTSTRAP=… deltasync run`
    """
    logs.configure(settings_module.Settings.model_construct())  # what is wrong with the settings is logged, too
    settings = settings_module.load()
    logs.configure(settings)
    lifecycle = Lifecycle()
    metrics = Metrics()
    kind = TransactionalPipeline if settings.consistency == "transaction" else Pipeline
    pipeline = kind(settings, Consumer(settings), Replica(settings), metrics, lifecycle)
    readiness = Readiness(settings, metrics, lifecycle, pipeline)
    server = Server(settings.monitor.url, metrics.registry, alive=lambda: lifecycle.alive, reasons=readiness.reasons)
    lifecycle.handle_signals()
    unburden()
    try:
        with server, readiness:
            pipeline.run()
    except BaseException:
        lifecycle.to(State.FAILED)
        raise
    lifecycle.to(State.STOPPED)


def unburden() -> None:
    """Have the interpreter do less of what costs a batch time."""
    # A batch makes tuples by the ten thousand and no cycles: looking for some took half of the time.
    gc.freeze()
    gc.set_threshold(200_000, 50, 100)
    # The thread that applies has little to do between two answers of the replica, and gets to it at once.
    sys.setswitchinterval(_SWITCH_S)
