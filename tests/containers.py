"""The servers as containers of the public images: PostgreSQL 18 twice, Kafka, Debezium's Connect."""

from __future__ import annotations

import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

import pytest
from psycopg.conninfo import make_conninfo
from testcontainers.community.postgres import PostgresContainer
from testcontainers.core.config import ConnectionMode, testcontainers_config
from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network
from testcontainers.core.wait_strategies import ExecWaitStrategy, HttpWaitStrategy
from tests.servers import Addresses

from deltasync.connect.template import REFERENCE
from deltasync.local.state import free_ports

_HOST = "127.0.0.1"
_SECRET_FILE = REFERENCE.removeprefix("${file:").removesuffix(":password}")
_START_TIMEOUT_S = 90
_SOURCE, _REPLICA, _KAFKA = "source-db", "replica-db", "kafka"

AnyContainer = TypeVar("AnyContainer", bound=DockerContainer)

# The reaper is one more image, with rights over the engine; the containers end with the fixture. Ports are
# published on loopback alone, so that is where they are looked for, whatever the tests themselves run in.
testcontainers_config.ryuk_disabled = True
testcontainers_config.connection_mode_override = ConnectionMode.docker_host
testcontainers_config.tc_host_override = _HOST


@contextmanager
def started() -> Iterator[Addresses]:
    """All four, on a network of their own, removed at the end. Skips the test where no engine answers."""
    _need_engine()
    password = secrets.token_hex(16)
    with ExitStack() as stack:
        network = stack.enter_context(_network())
        source = stack.enter_context(_database(network, _SOURCE, "-c", "wal_level=logical"))
        replica = stack.enter_context(_database(network, _REPLICA))
        port = free_ports().kafka
        stack.enter_context(_kafka(network, port))
        connect = stack.enter_context(_connect(network, password))
        yield Addresses(
            source_admin=_dsn(source),
            replica_admin=_dsn(replica),
            kafka=f"{_HOST}:{port}",
            connect=f"http://{_HOST}:{connect.get_exposed_port(8083)}",
            role_password=password,
            connect_source={"source_password": REFERENCE, "source_host": _SOURCE, "source_port": "5432"},
        )


def _need_engine() -> None:
    if shutil.which("docker") is None:
        pytest.skip("there is no docker command to ask for a container engine")
    done = subprocess.run(["docker", "version"], capture_output=True, check=False, text=True)
    if done.returncode:
        pytest.skip(f"no container engine answers: {done.stderr.strip()}")


@contextmanager
def _network() -> Iterator[Network]:
    network = Network()
    try:
        with network:
            yield network
    finally:
        network._docker.client.close()  # noqa: SLF001 - nobody else closes its connection


def _published(container: AnyContainer, port: int, host_port: int | None = None) -> AnyContainer:
    """Publish a port on loopback alone, as a free one where none is chosen."""
    container.ports[str(port)] = (_HOST, host_port)  # type: ignore[assignment] # passed on to the engine as it is
    return container


def _database(network: Network, alias: str, *options: str) -> PostgresContainer:
    container = PostgresContainer(
        "postgres:18", username="postgres", password=secrets.token_hex(16), dbname="postgres", driver=None
    )
    container.with_network(network).with_network_aliases(alias).with_command(["postgres", *options])
    return _published(container, container.port)


def _dsn(container: PostgresContainer) -> str:
    return make_conninfo(
        host=_HOST,
        port=container.get_exposed_port(container.port),
        user=container.username,
        password=container.password,
        dbname=container.dbname,
    )


def _kafka(network: Network, port: int) -> DockerContainer:
    """A broker that clients inside the network call `kafka`, and those outside by the port on this machine."""
    settings = {
        "NODE_ID": "1",
        "PROCESS_ROLES": "broker,controller",
        "CONTROLLER_QUORUM_VOTERS": "1@localhost:9093",
        "LISTENERS": "INSIDE://:9092,CONTROLLER://:9093,OUTSIDE://:29092",
        "ADVERTISED_LISTENERS": f"INSIDE://{_KAFKA}:9092,OUTSIDE://{_HOST}:{port}",
        "LISTENER_SECURITY_PROTOCOL_MAP": "INSIDE:PLAINTEXT,CONTROLLER:PLAINTEXT,OUTSIDE:PLAINTEXT",
        "INTER_BROKER_LISTENER_NAME": "INSIDE",
        "CONTROLLER_LISTENER_NAMES": "CONTROLLER",
        "AUTO_CREATE_TOPICS_ENABLE": "false",
        "MESSAGE_MAX_BYTES": str(32 * 2**20),  # as large as the connector's max.request.size
        "OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
        "TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
        "TRANSACTION_STATE_LOG_MIN_ISR": "1",
        "SHARE_COORDINATOR_STATE_TOPIC_REPLICATION_FACTOR": "1",
        "SHARE_COORDINATOR_STATE_TOPIC_MIN_ISR": "1",
        "GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
        "HEAP_OPTS": "-Xmx512m",
    }
    container = DockerContainer("apache/kafka:4.3.1", env={f"KAFKA_{name}": value for name, value in settings.items()})
    answers = ExecWaitStrategy(["bash", "-c", ": </dev/tcp/127.0.0.1/9092"]).with_startup_timeout(_START_TIMEOUT_S)
    container.with_network(network).with_network_aliases(_KAFKA).waiting_for(answers)
    return _published(container, 29092, port)


def _connect(network: Network, password: str) -> DockerContainer:
    """A worker whose connectors find the password of the tests' roles where `REFERENCE` points to."""
    worker = {
        "CONFIG_PROVIDERS": "file",
        "CONFIG_PROVIDERS_FILE_CLASS": "org.apache.kafka.common.config.provider.FileConfigProvider",
        "CONFIG_PROVIDERS_FILE_PARAM_ALLOWED_PATHS": _SECRET_FILE,
        "PLUGIN_DISCOVERY": "service_load",
        "CONNECTOR_CLIENT_CONFIG_OVERRIDE_POLICY": "Allowlist",
        # What connectors/source-postgres.json sets as producer.override.*, and nothing else.
        "CONNECTOR_CLIENT_CONFIG_OVERRIDE_ALLOWLIST": "compression.type,linger.ms,batch.size,max.request.size",
    }
    own = {
        "BOOTSTRAP_SERVERS": f"{_KAFKA}:9092",
        "GROUP_ID": "connect",
        "CONFIG_STORAGE_TOPIC": "connect-config",
        "OFFSET_STORAGE_TOPIC": "connect-offset",
        "STATUS_STORAGE_TOPIC": "connect-status",
        "OFFSET_FLUSH_INTERVAL_MS": "1000",
        "HEAP_OPTS": "-Xmx768m",
    }
    container = DockerContainer(
        "quay.io/debezium/connect:3.7.0.Final",
        env=own | {f"CONNECT_{name}": value for name, value in worker.items()},
        transferables=[(f"password={password}\n".encode(), _SECRET_FILE)],
    )
    ready = HttpWaitStrategy(8083, "/connectors").with_startup_timeout(_START_TIMEOUT_S)
    return _published(container.with_network(network).waiting_for(ready), 8083)
