"""Why a task failed, by its trace: whether a restart can help, and what else to do.

One table, tried in order, the permanent reasons first: a wrong password also looks like a lost connection.
What the table does not know is taken for permanent, because a restart could lose what nobody understood.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from deltasync.connect.masking import mask

LINE_MAX = 400


class Diagnosis(NamedTuple):
    """`line` is the trace's first line, `cause` the line of its deepest cause ("" where there is none).

    Neither holds a row's values or a password. `passing` says whether a restart can help.
    """

    line: str
    cause: str
    passing: bool
    remedy: str


class Reason(NamedTuple):
    """What a trace says somewhere, and what to do about it."""

    pattern: re.Pattern[str]
    remedy: str


_RESTART = "then `deltasync connectors restart`"
_PERMANENT = (
    Reason(
        re.compile(r"no longer available on the server"),
        "The slot is gone, or no longer holds the changes that come next: they are lost to Kafka. `deltasync recover "
        '--force` makes another slot and reads the tables again; with consistency = "transaction" start anew (see the '
        "README). Never use snapshot.mode=when_needed: it hides the gap.",
    ),
    Reason(
        re.compile(r"Publication autocreation is disabled"),
        f"Make the publication with `deltasync source setup`, {_RESTART}.",
    ),
    Reason(
        re.compile(r"permission denied to start WAL sender|must be superuser or replication role"),
        f"Give the role REPLICATION (`deltasync source setup` does), {_RESTART}.",
    ),
    Reason(
        re.compile(r"all replication slots are in use|number of requested standby connections"),
        f"Raise max_replication_slots and max_wal_senders on the source, or drop slots nobody reads, {_RESTART}.",
    ),
    Reason(
        re.compile(r"wal_level|logical decoding requires"),
        f"Set wal_level = logical on the source and restart it, {_RESTART}.",
    ),
    Reason(
        re.compile(
            r"password authentication failed|no password was provided|no pg_hba\.conf entry"
            r"|role \"[^\"]*\" (?:does not exist|is not permitted to log in)"
        ),
        "Correct the role, its password in the file that Connect's provider reads, or pg_hba.conf on the source, "
        f"{_RESTART}.",
    ),
    Reason(
        re.compile(r"database \"[^\"]*\" does not exist"),
        "Correct DELTASYNC_CONNECT_SOURCE_DATABASE, then `deltasync connectors apply`.",
    ),
    Reason(
        re.compile(r"permission denied for"),
        f"Run `deltasync source setup`: it grants what the role needs; {_RESTART}.",
    ),
    Reason(
        re.compile(r"larger than the max message size the server will accept"),
        "Raise max.message.bytes of its topic above producer.override.max.request.size of the connector (`deltasync "
        f"check` names the topic), {_RESTART}. Rows that were sent behind the record hide it when it comes again: read "
        "the table again, `deltasync resync`.",
    ),
    Reason(
        re.compile(r"RecordTooLargeException"),
        "Raise producer.override.max.request.size in the connector and max.message.bytes of its topic, "
        f"`deltasync connectors apply`, {_RESTART}.",
    ),
    Reason(
        re.compile(r"Creation of replication slot failed"),
        f"The source needs wal_level = logical, a free slot and a role with REPLICATION, {_RESTART}.",
    ),
    Reason(
        re.compile(r"(?:Topic|Group|Cluster|TransactionalId)AuthorizationException"),
        f"Give the worker's Kafka user CREATE, DESCRIBE and WRITE on the connector's topics, {_RESTART}.",
    ),
    Reason(
        re.compile(r"Sasl\w*Exception|Ssl\w*Exception|SSLHandshakeException"),
        f"Correct the settings for TLS or SASL, {_RESTART}.",
    ),
    Reason(
        re.compile(r"InvalidReplicationFactor|PolicyViolation|InvalidConfigurationException"),
        "Kafka refuses the topics that the connector creates: correct topic.creation.*, "
        "then `deltasync connectors apply`.",
    ),
    Reason(
        re.compile(r"OutOfMemoryError|Ran out of memory"),
        "Give Connect's worker more heap (-Xmx) and restart it, or lower max.queue.size and max.batch.size.",
    ),
    Reason(
        re.compile(r"[Ff]ailed to (?:properly )?convert|DataException|Unexpected value for JDBC type"),
        "A value cannot be carried exactly. Where a large value did not change, the table needs REPLICA IDENTITY "
        f"FULL before its next update; else exclude its table, {_RESTART}.",
    ),
    Reason(
        re.compile(r"ClassNotFoundException|NoClassDefFoundError"),
        "Install the connector's plug-in on every worker, and restart them.",
    ),
)
_PASSING = re.compile(
    r"Connection (?:to \S+ )?refused|Connection reset|connection attempt failed|Connection timed out|Broken pipe"
    r"|I/O error occurred while sending|This (?:connection|replication stream) has been closed|EOFException"
    r"|SocketTimeoutException|SocketException|UnknownHostException|NoRouteToHostException"
    r"|Database connection failed when|terminating connection due to"
    r"|the database system is (?:starting up|shutting down|in recovery|not yet)"
    r"|remaining connection slots|too many (?:clients|connections)|replication slot \"?\S+ is active"
    r"|is already active for PID|kafka\.common\.errors\.TimeoutException|DisconnectException|NetworkException"
    r"|NotLeaderOrFollower|NotEnoughReplicas|CoordinatorNotAvailable|BrokerNotAvailable|Expiring \d+ record"
)
# Messages of these exceptions quote the value that they choked on.
_QUOTING = re.compile(r"^((?:java\.(?:lang|time|util|text|math)|com\.fasterxml)\.[\w.$]+)(?:: .*)?$")
_VALUES = (
    (re.compile(r"\w*OffsetContext \[.*\](?=, but|$)"), "the stored offset"),
    (re.compile(r"(invalid input syntax for [\w ]+: ).*"), r"\1…"),
    (re.compile(r"(for row|with value|value:) .*"), r"\1 …"),
)


def diagnose(trace: str) -> Diagnosis:
    """Judge a trace as `/connectors/NAME/status` carries it."""
    lines = trace.splitlines()
    line = _shown(lines[0]) if lines else "Connect gives no reason"
    causes = [found.removeprefix("Caused by: ") for found in lines if found.startswith("Caused by: ")]
    cause = _shown(causes[-1]) if causes else ""
    for reason in _PERMANENT:
        if reason.pattern.search(trace):
            return Diagnosis(line, cause, passing=False, remedy=reason.remedy)
    if _PASSING.search(trace):
        remedy = "This can pass: `deltasync run` restarts the task; `deltasync connectors restart` does it at once."
        return Diagnosis(line, cause, passing=True, remedy=remedy)
    remedy = f"Read the log of Connect's worker around the failure, remove the reason, {_RESTART}."
    return Diagnosis(line, cause, passing=False, remedy=remedy)


def _shown(line: str) -> str:
    line = _QUOTING.sub(r"\1", line.strip())
    for pattern, replacement in _VALUES:
        line = pattern.sub(replacement, line)
    line = mask(line)
    return line if len(line) <= LINE_MAX else line[: LINE_MAX - 1] + "…"
