"""A pipeline in motion for tests: set up on real servers, workers as real processes, and proof of equality."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psycopg
from tests.conftest import Pipeline

from deltasync.connect.apply import apply
from deltasync.connect.client import ConnectClient
from deltasync.connect.template import load
from deltasync.replica.setup import setup as replica_setup
from deltasync.source.generated import generated
from deltasync.source.setup import setup as source_setup
from deltasync.source.snapshot import template_variables

_DEADLINE_S = 60.0


def until(holds: Callable[[], object], what: str, deadline_s: float = _DEADLINE_S) -> None:
    """Return when `holds()` is true; fail, saying what was waited for, when it is not in time."""
    end = time.monotonic() + deadline_s
    while not holds():
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline_s:.0f} s: {what}")
        time.sleep(0.05)


class Worker:
    """One `deltasync run` as a process of its own."""

    def __init__(self, env: dict[str, str], log: Path) -> None:
        self.log = log
        self._file = log.open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "deltasync.cli.main", "run"],
            env={"PATH": os.environ["PATH"], **env},
            stderr=self._file,
            stdout=self._file,
        )

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """Kill -9, and wait for the end of the process."""
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> int:
        """SIGTERM; returns the exit code. Fails if the promised 10 s pass."""
        self.process.terminate()
        return self.process.wait(10)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        self._file.close()

    def said(self, text: str) -> bool:
        return text in self.log.read_text()

    def events(self, message: str) -> list[dict[str, Any]]:
        """The log's entries of this kind, oldest first."""
        found = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [entry for entry in found if entry.get("message") == message]

    def blamed(self) -> list[dict[str, Any]]:
        """The records that it could not apply: where a partition stopped, and what was set aside."""
        return self.events("partition stopped") + self.events("record parked")

    def metric(self, name: str, **labels: str) -> float:
        """A metric with exactly these labels, as `/metrics` shows it; 0 where it does not."""
        url = self.events("monitor answers")[-1]["url"]
        inner = ",".join(f'{label}="{value}"' for label, value in sorted(labels.items()))
        wanted = f"{name}{{{inner}}} " if inner else f"{name} "
        lines = httpx.get(f"{url}/metrics", timeout=5).text.splitlines()
        return next((float(line.removeprefix(wanted)) for line in lines if line.startswith(wanted)), 0.0)

    def runs_for(self, seconds: float) -> None:
        """Let it run for this long; fails if it ends by itself before."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return
        raise AssertionError(f"it ended by itself with {code}:\n{self.log.read_text()[-2000:]}")


class Flow:
    """A test's pipeline: its source and replica, its connector, its workers."""

    def __init__(self, pipeline: Pipeline, folder: Path) -> None:
        self.pipeline = pipeline
        self.settings = pipeline.settings
        self.env = dict(pipeline.env)
        self.folder = folder
        self.workers: list[Worker] = []
        self.source = psycopg.connect(pipeline.source_admin, autocommit=True)
        self.replica = psycopg.connect(pipeline.replica_admin, autocommit=True)

    def set_up(self, schema: str, **connector: str) -> None:
        """Create the source's tables, set both sides up, start the connector."""
        self.source.execute(schema)
        source_setup(self.settings)
        replica_setup(self.settings)
        self.start_connector(**connector)

    def use_converter(self, on: bool) -> None:  # noqa: FBT001 - what it sets
        """Say whether Connect's raw-text converter is used, to what is set up, applied and started from now on."""
        connect = self.settings.connect.model_copy(update={"raw_text": on})
        self.settings = self.settings.model_copy(update={"connect": connect})
        self.env["DELTASYNC_CONNECT_RAW_TEXT"] = str(on).lower()

    def use_keyless(self) -> None:
        """Have tables without a key captured."""
        source = self.settings.source.model_copy(update={"keyless": True})
        self.settings = self.settings.model_copy(update={"source": source})
        self.env["DELTASYNC_SOURCE_KEYLESS"] = "true"

    def copy(self, table: str, row: str, count: int) -> None:
        """Insert the same row so many times, by COPY of the source."""
        with self.source.cursor() as cursor, cursor.copy(f"COPY {table} FROM STDIN") as copy:
            for _ in range(count):
                copy.write(row)

    def start_connector(self, **changes: str) -> None:
        """Apply the shipped connector with changes, dots written as `__`; does not wait until it runs."""
        with ConnectClient(self.settings.connect.url or "") as client:
            (wanted,) = load([], template_variables(self.settings), generated(self.settings))
            changed = {key.replace("__", "."): value for key, value in changes.items()}
            apply(client, [wanted._replace(config={**wanted.config, **changed})])

    def streaming(self) -> int | None:
        """The process on the source that streams to the connector; another one after each restart of it."""
        query = "SELECT active_pid FROM pg_replication_slots WHERE slot_name = %s AND active"
        found = self.source.execute(query, [self.settings.slot]).fetchone()
        return found[0] if found else None

    @property
    def connector(self) -> str:
        return f"{self.settings.pipeline}-source"

    def cli(self, *arguments: str, code: int = 0) -> str:
        """Run a command; fails unless it exits with `code`. Returns what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "deltasync.cli.main", *arguments],
            env={"PATH": os.environ["PATH"], "COLUMNS": "200", **self.env},
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert done.returncode == code, f"{arguments} -> {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def start_worker(self, **env: str) -> Worker:
        worker = Worker({**self.env, **env}, self.folder / f"worker-{len(self.workers)}.log")
        self.workers.append(worker)
        return worker

    def start_settled(self, **env: str) -> Worker:
        """Start a worker behind the initial snapshot: it restarts the connector then, once, and that is over."""
        until(self.streaming, "the snapshot is complete")
        first = self.streaming()
        worker = self.start_worker(**env)
        until(lambda: self.streaming() not in {None, first}, "it streams on")
        beats = self.ledger().get("deltasync.canary", (0, 0))[0]
        until(lambda: self.ledger().get("deltasync.canary", (0, 0))[0] > beats + 1, "and knows the tables")
        return worker

    def end_sessions(self) -> None:
        """End the workers' sessions on the replica."""
        query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s"
        self.replica.execute(query, [self.pipeline.name])

    def rows(self, connection: psycopg.Connection[Any], table: str) -> list[str]:
        """A table's rows as text, ordered by text: two databases are equal where these are."""
        return [row for (row,) in connection.execute(f'SELECT t::text FROM {table} t ORDER BY t::text COLLATE "C"')]

    def _digest(self, connection: psycopg.Connection[Any], table: str) -> object:
        query = f"SELECT count(*), sum(hashtextextended(t::text, 0)) FROM {table} t"
        return connection.execute(query).fetchone()

    def count(self, table: str) -> int:
        """How many rows the replica's table has; 0 where there is no such table."""
        return len(self.rows(self.replica, table)) if self._exists(table) else 0

    def _exists(self, table: str) -> bool:
        row = self.replica.execute("SELECT to_regclass(%s)", [table]).fetchone()
        return row is not None and row[0] is not None

    def equal(self, *tables: str) -> bool:
        try:
            return all(self._digest(self.source, table) == self._digest(self.replica, table) for table in tables)
        except psycopg.errors.UndefinedTable:
            return False

    def wait_equal(self, *tables: str, deadline_s: float = _DEADLINE_S) -> None:
        try:
            until(lambda: self.equal(*tables), f"{', '.join(tables)} equal", deadline_s)
        except AssertionError as error:
            logs = "\n".join(worker.log.read_text()[-4000:] for worker in self.workers[-3:])
            raise AssertionError(f"{error}\n{self.differences(*tables)}\n{logs}") from None

    def differences(self, *tables: str) -> str:
        """What differs, in figures and the first rows, and what Connect and the ledger say."""
        found = []
        for table in tables:
            source, replica = (Counter(self.rows(connection, table)) for connection in (self.source, self.replica))
            missing, surplus = sorted((source - replica).elements()), sorted((replica - source).elements())
            found.append(f"{table}: {len(missing)} missing {missing[:3]}, {len(surplus)} surplus {surplus[:3]}")
        status = httpx.get(f"{self.settings.connect.url}/connectors/{self.connector}/status", timeout=10).text
        return "\n".join([*found, str(self.ledger()), status[:2000]])

    def ledger(self) -> dict[str, tuple[int, int]]:
        """Per topic (without the prefix): next offset and how many were skipped by position."""
        prefix = f"{self.settings.topic_prefix}."
        query = "SELECT topic, next_offset, skipped FROM deltasync.ledger WHERE pipeline = %s"
        found = self.replica.execute(query, [self.settings.pipeline])
        return {topic.removeprefix(prefix): (offset, skipped) for topic, offset, skipped in found}

    def monitor(self, path: str) -> httpx.Response:
        return httpx.get(f"{self.env['DELTASYNC_MONITOR_URL']}{path}", timeout=5)

    def reconnect(self) -> None:
        """Connect to source and replica anew: they were ended, and are there again."""
        for connection in (self.source, self.replica):
            connection.close()
        self.source = psycopg.connect(self.pipeline.source_admin, autocommit=True)
        self.replica = psycopg.connect(self.pipeline.replica_admin, autocommit=True)

    def close(self) -> None:
        for worker in self.workers:
            worker.close()
        self.source.close()
        self.replica.close()
