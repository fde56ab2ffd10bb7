"""What has to be gone before a pipeline is ended on one of its sides, in the order in which it has to go."""

from __future__ import annotations

import typer

from deltasync.connect.apply import find_status
from deltasync.connect.client import ConnectClient
from deltasync.errors import RefusedError
from deltasync.kafka.admin import Admin
from deltasync.replica.teardown import knows
from deltasync.settings import Settings


def refuse_connector(settings: Settings) -> None:
    """Raises RefusedError where Connect, if the settings name it, has the pipeline's connector."""
    if settings.connect.url is None:
        return
    with ConnectClient(settings.connect.url) as client:
        if find_status(client, settings.connector) is not None:
            raise RefusedError(
                f"The connector {settings.connector} is there: it would go on, or come back.",
                remedy=f"deltasync connectors delete {settings.connector} --reset-offsets",
            )


def refuse_kafka(settings: Settings) -> None:
    """Raises RefusedError where Kafka, if the settings name it, has workers or topics of the pipeline."""
    if settings.kafka.bootstrap is None:
        return
    admin = Admin(settings)
    workers = admin.members()
    if workers:
        raise RefusedError(
            f"The pipeline {settings.pipeline} has workers that run: {workers}.", remedy="Stop every `deltasync run`."
        )
    topics = {partition.topic for partition in admin.logs()}
    if topics:
        raise RefusedError(
            f"Kafka holds {len(topics)} topics of the pipeline, {min(topics)} for one: without the ledger their "
            "records would be applied once more.",
            remedy=f"Delete them: kafka-topics.sh --bootstrap-server {settings.kafka.bootstrap} --delete "
            f"--topic '{settings.topic_prefix}[.].*'",
        )


def refuse_replica(settings: Settings) -> None:
    """Raises RefusedError where the replica, if the settings name it, knows the pipeline."""
    if settings.replica.dsn is not None and knows(settings):
        raise RefusedError(
            f"The replica knows the pipeline {settings.pipeline}; what it knows would not fit a source set up anew.",
            remedy="Run `deltasync replica teardown` first.",
        )


def ask(question: str, *, yes: bool) -> None:
    """Go on only if the user wants to. Ends with exit code 1 otherwise, also where nobody can be asked."""
    if not yes:
        typer.confirm(question, abort=True, err=True)
