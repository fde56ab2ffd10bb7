"""Traces as Debezium 3.7.0.Final left them: the reason, whether it passes, and the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from deltasync.connect.diagnosis import LINE_MAX, diagnose

TRACES = Path(__file__).parent / "traces"


@pytest.mark.parametrize(
    ("trace", "says", "passing", "remedy"),
    [
        ("slot-gone", "but this is no longer available on the server", False, "deltasync recover"),
        ("no-publication", "Publication autocreation is disabled", False, "deltasync source setup"),
        ("no-replication-role", "permission denied to start WAL sender", False, "REPLICATION"),
        ("wrong-password", 'password authentication failed for user "dbz"', False, "its password in the file"),
        ("record-too-large", "The message is 640758 bytes", False, "max.request.size"),
        ("out-of-memory", "java.lang.OutOfMemoryError", False, "-Xmx"),
        ("connection-lost", "Database connection failed|java.io.EOFException", True, "restarts the task"),
    ],
)
def test_known_traces(trace: str, says: str, passing: bool, remedy: str) -> None:  # noqa: FBT001 - a table of cases
    found = diagnose((TRACES / f"{trace}.txt").read_text())
    assert any(text in f"{found.line} {found.cause}" for text in says.split("|"))
    assert found.passing is passing
    assert remedy in found.remedy


def test_permanent_reason_beneath_a_lost_connection_is_permanent() -> None:
    trace = 'X: The connection attempt failed.\nCaused by: Y: FATAL: password authentication failed for user "dbz"'
    assert not diagnose(trace).passing


def test_stream_that_was_closed_under_the_task_can_pass() -> None:
    """What a walsender's end looks like to a task that was confirming a position, not reading."""
    trace = "X: y\nCaused by: org.postgresql.util.PSQLException: This replication stream has been closed."
    assert diagnose(trace).passing


def test_unknown_reason_is_permanent() -> None:
    found = diagnose("org.example.StrangeException: never seen\n\tat a.b(C.java:1)")
    assert not found.passing
    assert found.line == "org.example.StrangeException: never seen"
    assert "log" in found.remedy


def test_no_trace_is_no_crash() -> None:
    assert diagnose("").line == "Connect gives no reason"


@pytest.mark.parametrize(
    "trace",
    [
        'X: y\nCaused by: java.lang.NumberFormatException: For input string: "SECRET"',
        "X: y\nCaused by: java.time.format.DateTimeParseException: Text 'SECRET' could not be parsed",
        'org.postgresql.util.PSQLException: ERROR: invalid input syntax for type integer: "SECRET"',
        "io.debezium.DebeziumException: Failed to convert column for row [1, SECRET]",
        "x: at PostgresOffsetContext [a=[lastEventKeySent=[SECRET]]], but this is no longer available on the server",
        "x: url jdbc:postgresql://db/erp?password=SECRET failed",
        "X: y\n  Detail: Key (id)=(SECRET) exists",
    ],
)
def test_values_of_rows_and_passwords_are_not_shown(trace: str) -> None:
    found = diagnose(trace)
    assert "SECRET" not in found.line + found.cause


def test_long_lines_are_cut() -> None:
    assert len(diagnose("X: " + "y" * 5000).line) == LINE_MAX
