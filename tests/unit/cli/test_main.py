"""What every command ends with where something is wrong."""

from __future__ import annotations

import json

import psycopg
import pytest
import sqlalchemy as sa
import structlog

from deltasync.cli import main as commands

VALUE = "s3cr3t"


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (psycopg.errors.InsufficientPrivilege(VALUE), 1, "InsufficientPrivilege (42501)"),
        (psycopg.errors.AdminShutdown(VALUE), 3, "AdminShutdown (57P01)"),
        (sa.exc.ProgrammingError(f"SELECT {VALUE}", {}, psycopg.errors.UndefinedTable(VALUE)), 1, "42P01"),
    ],
)
def test_a_databases_error_is_one_sentence_without_its_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, code: int, said: str
) -> None:
    """They may hold a row, or a statement with a password."""

    def app() -> None:
        raise error

    monkeypatch.setattr(commands, "app", app)
    with pytest.raises(SystemExit) as ended:
        commands.main()

    printed = capsys.readouterr().err
    assert ended.value.code == code
    assert said in printed
    assert "do: " in printed
    assert VALUE not in printed


def test_a_fault_of_ours_shows_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def app() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(commands, "app", app)
    with pytest.raises(ZeroDivisionError):
        commands.main()


def test_the_service_ends_with_a_line_of_its_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where nobody watches, all that `run` says is JSON, wrong settings included."""
    monkeypatch.setattr("sys.argv", ["deltasync", "run"])
    monkeypatch.setenv("DELTASYNC_BATCH_ROWS_MAX", "many")
    with pytest.raises(SystemExit) as ended:
        commands.main()
    structlog.reset_defaults()

    said = json.loads(capsys.readouterr().err)
    assert ended.value.code == 2
    assert (said["message"], said["level"], said["exit_code"]) == ("failed", "error", 2)
    assert "DELTASYNC_BATCH_ROWS_MAX" in said["reason"]
