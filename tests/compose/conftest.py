"""The stack of docker-compose.yml under a name, ports and passwords of its own, for one session."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest

ROOT = Path(__file__).parents[2]
PASSWORDS = ("SOURCE_ADMIN_PASSWORD", "REPLICA_ADMIN_PASSWORD", "SOURCE_PASSWORD", "REPLICA_PASSWORD")
SECRETS = (*PASSWORDS, "UNAVAILABLE_VALUE")
PORTS = ("SOURCE_PORT", "REPLICA_PORT", "KAFKA_PORT", "MONITOR_PORT")
UP_TIMEOUT_S = 360  # the image is built on the way


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on; all are held until all are chosen."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], capture_output=True, check=True, text=True).stdout.strip()


def _works(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


class Compose:
    """One compose project: `docker compose` where there is one, else docker-compose."""

    def __init__(self, command: list[str], project: str, env_file: Path, values: dict[str, str]) -> None:
        self.project = project
        self.values = values
        self._command = [*command, "--env-file", str(env_file), "-p", project]

    def run(self, *arguments: str, check: bool = True, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a compose command to its end; what it printed is in the error if `check` fails."""
        clean = {name: value for name, value in os.environ.items() if name not in (*SECRETS, *PORTS)}
        done = subprocess.run(
            [*self._command, *arguments],
            cwd=ROOT,
            env=clean,
            capture_output=True,
            check=False,
            text=True,
            timeout=timeout_s,
        )
        if check and done.returncode:
            pytest.fail(f"compose {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done

    def logs(self, *services: str) -> str:
        """The last lines of the containers."""
        return self.run("logs", "--no-color", "--tail=20", *services, check=False).stdout

    def containers(self, *filters: str) -> list[str]:
        """The ids of the project's containers, running or not."""
        return docker("ps", "-aq", *self._filters(*filters)).split()

    def container(self, service: str) -> str:
        """The id of a service's container, running or not."""
        (found,) = self.containers(f"com.docker.compose.service={service}", "com.docker.compose.oneoff=False")
        return found

    def _filters(self, *labels: str) -> list[str]:
        labels = (f"com.docker.compose.project={self.project}", *labels)
        return [argument for label in labels for argument in ("--filter", f"label={label}")]

    def connect(self, side: str) -> psycopg.Connection[tuple[str, ...]]:
        """Connect to a database (`SOURCE`, `REPLICA`) from outside, as its superuser."""
        return psycopg.connect(
            host="127.0.0.1",
            port=int(self.values[f"{side}_PORT"]),
            dbname="shop",
            user="postgres",
            password=self.values[f"{side}_ADMIN_PASSWORD"],
            autocommit=True,
            connect_timeout=10,
        )

    def left_behind(self) -> list[str]:
        """The containers, volumes and networks that bear the project's name."""
        kinds = (docker(kind, "ls", "-q", *self._filters()).split() for kind in ("volume", "network"))
        return sum(kinds, self.containers())


@pytest.fixture(scope="session")
def compose_command() -> list[str]:
    if not _works("docker", "info"):
        pytest.skip("no container engine answers")
    for command in (["docker", "compose"], ["docker-compose"]):
        if _works(*command, "version"):
            return command
    pytest.skip("there is neither docker compose nor docker-compose")


@pytest.fixture(scope="session")
def without_passwords(compose_command: list[str], tmp_path_factory: pytest.TempPathFactory) -> Compose:
    """The project of someone who has not copied .env.example."""
    env_file = tmp_path_factory.mktemp("compose") / "env"
    env_file.touch()
    return Compose(compose_command, "deltasync-test-refused", env_file, {})


@pytest.fixture(scope="session")
def stack(compose_command: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compose]:
    """Everything, up. What the containers said is shown if they do not start."""
    values = {name: secrets.token_hex(16) for name in SECRETS}
    values |= {name: str(port) for name, port in zip(PORTS, _free_ports(len(PORTS)), strict=True)}
    env_file = tmp_path_factory.mktemp("compose") / "env"
    env_file.write_text("".join(f"{name}={value}\n" for name, value in values.items()))
    compose = Compose(compose_command, f"deltasync-test-{secrets.token_hex(4)}", env_file, values)
    try:
        done = compose.run("up", "--build", "--detach", check=False, timeout_s=UP_TIMEOUT_S)
        if done.returncode:
            pytest.fail(f"compose up ended with {done.returncode}:\n{done.stderr}\n{compose.logs()}")
        yield compose
    finally:
        compose.run("down", "--volumes", "--timeout=10", check=False)
