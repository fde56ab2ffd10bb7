"""A whole stack: the four servers, the pipeline between them, and the applier, in one state folder."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import httpx
import msgspec

from deltasync.environment import child_environment, settings_among
from deltasync.errors import PartError, RefusedError
from deltasync.local import state as states
from deltasync.local.process import Process
from deltasync.local.servers import Servers, stop
from deltasync.local.state import State

# What the stack's user decides; the rest is the stack's: addresses, names, schemas, the word for large values.
WISHES = (
    "consistency",
    "log_format",
    "log_level",
    "source.exclude",
    "source.keyless",
    "replica.synchronous_commit",
    "replica.constraints",
    "replica.retry_s_max",
    "kafka.session_timeout_s",
    "connect.restart_failed_tasks",
    "parking.failed_max",
    "parking.records_max",
    "batch.rows_max",
    "batch.bytes_max",
    "batch.spool_bytes_max",
    "monitor.canary_age_s_max",
    "ddl.create_table",
    "ddl.drop_table",
    "ddl.rename_table",
    "ddl.add_column",
    "ddl.add_enum_label",
    "ddl.drop_not_null",
    "ddl.set_default",
    "ddl.set_not_null",
    "ddl.widen_type",
    "ddl.rename_column",
    "ddl.drop_column",
    "ddl.change_type",
    "ddl.change_key",
    "ddl.lock_timeout_s",
    "tables",
)
DATABASE = "shop"
SCHEMA = "shop"
_ROLE = "deltasync"
_STEP_TIMEOUT_S = 60.0


class PartStatus(msgspec.Struct, frozen=True):
    """`running` answers, `starting` has a process that does not answer (yet), `down` has none."""

    part: str
    status: Literal["running", "starting", "down"]
    address: str
    pid: int | None
    log: str


class Applier:
    """`deltasync run` as a part of the stack."""

    def __init__(self, name: str, folder: Path, monitor_url: str) -> None:
        self.process = Process(name, folder)
        self.url = monitor_url

    def start(self, env: Mapping[str, str]) -> None:
        """Start the applier with these settings and no others. Does not wait."""
        self.process.spawn([*_deltasync(), "run"], env=child_environment(env))

    def stop_if_unlike(self, env: Mapping[str, str]) -> None:
        """End an applier that runs with other settings than these."""
        running = self.process.environment()
        if running is not None and settings_among(running) != env:
            self.process.stop(signal.SIGTERM)

    def wait(self) -> None:
        """Return when the applier says that it lives. Raises PartError where it does not."""
        self.process.wait(self.is_ready)

    def is_ready(self) -> bool:
        """Whether the applier says that it lives."""
        try:
            return httpx.get(f"{self.url}/healthz", timeout=2).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False


def _silent(_doing: str) -> None:
    pass


class Stack:
    """The stack whose state is in `folder`. Every method may be called from any process, at any time.

    `wishes` are settings of its user's, as variables: what is started and set up has them beside the stack's own.
    """

    def __init__(self, folder: Path, wishes: Mapping[str, str] | None = None) -> None:
        self.folder = folder.resolve()
        self._wishes = wishes or {}

    def up(self, tell: Callable[[str], None] = _silent, fill: Callable[[dict[str, str]], None] | None = None) -> None:
        """Start what does not run: all of a new stack, or what has died of an old one. Idempotent.

        An applier that runs with other settings is started anew.

        `tell` hears what is being done. `fill` is called with the settings (as in `env`) when the databases
        answer, before the source is set up for capture. Raises PartError for a part that does not start;
        whatever ends this method early, what it has started is ended again.
        """
        with states.locked(self.folder):
            state = states.load_or_make(self.folder)
            servers = Servers(self.folder, state)
            try:
                tell("Starting PostgreSQL (source and replica), Kafka and Connect")
                servers.start()
                servers.source.create_database(DATABASE, schema=SCHEMA)
                servers.replica.create_database(DATABASE)
                servers.connect.keep_secret("source", state.source_password)
                env = environment(servers, state)
                if fill is not None:
                    fill(env)
                self._start_pipeline(servers, {**self._wishes, **env}, tell)
            except BaseException:
                servers.undo()
                raise

    def _start_pipeline(self, servers: Servers, env: Mapping[str, str], tell: Callable[[str], None]) -> None:
        tell("Setting up source and replica")
        run_command(env, "source", "setup")
        run_command(env, "replica", "setup")
        tell("Starting the applier, applying the connector")
        applier = Applier("applier", self.folder, env["DELTASYNC_MONITOR_URL"])
        applier.stop_if_unlike(env)
        servers.start_part(applier, lambda: applier.start(env))
        servers.connect.wait()
        run_command(env, "connectors", "apply")
        applier.wait()

    def down(self, *, remove: bool = True) -> None:
        """End every process of the stack, and remove its data unless `remove` is false. Idempotent."""
        if not self.folder.exists():
            return
        with states.locked(self.folder):
            stop(self.folder, states.PARTS, at_once=remove)
            if remove:
                states.remove(self.folder)

    def status(self) -> list[PartStatus]:
        """How each part is. Raises RefusedError where there is no stack."""
        state = self._state()
        servers = Servers(self.folder, state)
        applier = Applier("applier", self.folder, _monitor_url(state))
        addresses = {
            "source": servers.source.address,
            "replica": servers.replica.address,
            "kafka": servers.kafka.bootstrap,
            "connect": servers.connect.url,
            "applier": applier.url,
        }
        found: list[PartStatus] = []
        for part in (*servers.parts, applier):
            process = part.process.find()
            answer: Literal["running", "starting"] = "running" if process and part.is_ready() else "starting"
            found.append(
                PartStatus(
                    part=part.process.name,
                    status=answer if process else "down",
                    address=addresses[part.process.name],
                    pid=process.pid if process else None,
                    log=str(part.process.log),
                )
            )
        return found

    def env(self) -> dict[str, str]:
        """The stack's own settings, as variables: every command works on it with them. Raises RefusedError."""
        state = self._state()
        return environment(Servers(self.folder, state), state)

    def command(self, *arguments: str) -> None:
        """Run one of deltasync's commands on this stack, as a user would. Raises PartError where it fails."""
        run_command({**self._wishes, **self.env()}, *arguments)

    def _state(self) -> State:
        state = states.load(self.folder)
        if state is None:
            raise RefusedError(f"There is no stack in {self.folder}.", remedy="Start one with `deltasync local up`.")
        return state


def environment(
    servers: Servers, state: State, source_db: str = DATABASE, replica_db: str = DATABASE
) -> dict[str, str]:
    """The settings of the pipeline between two databases of these servers, as environment variables."""
    source, replica = servers.source, servers.replica
    return {
        "DELTASYNC_SOURCE_DSN": source.dsn(source_db, _ROLE, state.source_password),
        "DELTASYNC_SOURCE_ADMIN_DSN": source.dsn(source_db),
        "DELTASYNC_SOURCE_SCHEMAS": msgspec.json.encode([SCHEMA]).decode(),
        "DELTASYNC_REPLICA_DSN": replica.dsn(replica_db, _ROLE, state.replica_password),
        "DELTASYNC_REPLICA_ADMIN_DSN": replica.dsn(replica_db),
        "DELTASYNC_KAFKA_BOOTSTRAP": servers.kafka.bootstrap,
        "DELTASYNC_CONNECT_URL": servers.connect.url,
        "DELTASYNC_CONNECT_SOURCE_PASSWORD": servers.connect.secret("source"),
        "DELTASYNC_CONNECT_RAW_TEXT": "true",
        "DELTASYNC_UNAVAILABLE_VALUE": state.unavailable_value,
        "DELTASYNC_MONITOR_URL": _monitor_url(state),
    }


def _monitor_url(state: State) -> str:
    return f"http://127.0.0.1:{state.ports.monitor}"


def run_command(env: Mapping[str, str], *arguments: str, timeout_s: float = _STEP_TIMEOUT_S) -> None:
    """Run one of deltasync's commands with these settings and no others. Raises PartError where it fails."""
    shown = " ".join(["deltasync", *arguments])
    try:
        done = subprocess.run(  # noqa: S603 - our own commands
            [*_deltasync(), *arguments],
            env=child_environment(env),
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise PartError(
            f"`{shown}` has not ended after {timeout_s:.0f} s.",
            remedy="`deltasync local logs` shows what its servers did meanwhile.",
        ) from None
    if done.returncode != 0:
        said = "\n".join(done.stdout.splitlines()[-15:])
        raise PartError(
            f"`{shown}` failed with exit code {done.returncode}:\n{said}",
            remedy="Do what it says, then run `deltasync local up` again.",
        )


def _deltasync() -> list[str]:
    # Beside this Python where it was installed by pip; a process list then shows `deltasync run`.
    script = Path(sys.executable).with_name("deltasync")
    return [str(script)] if script.exists() else [sys.executable, "-m", "deltasync.cli.main"]
