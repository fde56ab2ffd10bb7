"""Where it was measured, and with which versions."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psutil  # type: ignore[import-untyped]  # it ships no types
import psycopg

from bench.stage import SYNCHRONOUS_COMMIT, Stage
from deltasync import __version__


class Machine(msgspec.Struct, frozen=True):
    """What figures depend on; `memory_gb` is in 10^9 bytes."""

    at: str
    cpu: str
    cores: int
    memory_gb: float
    kernel: str
    python: str
    deltasync: str
    postgresql: str
    kafka: str
    debezium: str
    debezium_sink: str
    synchronous_commit: str = SYNCHRONOUS_COMMIT


def look(stage: Stage) -> Machine:
    """Ask the system and the servers of a stage, which run."""
    url = stage.servers.connect.url
    with psycopg.connect(stage.servers.source.dsn()) as source:
        (postgresql,) = source.execute("SHOW server_version").fetchone() or ("",)
    plugins = {one["class"].rpartition(".")[2]: one["version"] for one in _get(f"{url}/connector-plugins")}
    return Machine(
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        cpu=_cpu_model(),
        cores=os.cpu_count() or 0,
        memory_gb=round(psutil.virtual_memory().total / 1e9, 1),
        kernel=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        deltasync=__version__,
        postgresql=str(postgresql),
        kafka=_get(url)["version"],
        debezium=plugins["PostgresConnector"],
        debezium_sink=plugins["JdbcSinkConnector"],
    )


def _get(url: str) -> Any:  # noqa: ANN401 - JSON
    return httpx.get(url, timeout=30).raise_for_status().json()


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
