"""What of its user's settings reaches an embedded stack."""

from __future__ import annotations

from pathlib import Path

import pytest

from deltasync import invalid, settings
from deltasync.local.stack import WISHES

# The stack's own: where things are, what they are called, and what it was started with.
ITS_OWN = {
    "pipeline",
    "unavailable_value",
    *(f"source.{key}" for key in ("dsn", "admin_dsn", "password_file", "schemas", "slot", "publication", "failover")),
    *(f"replica.{key}" for key in ("dsn", "admin_dsn", "password_file")),
    *(f"kafka.{key}" for key in ("bootstrap", "group", "topic_prefix", "options")),
    *(f"connect.{key}" for key in ("url", "source_host", "source_port", "source_database", "source_user")),
    *("connect.source_password", "connect.raw_text", "monitor.url"),
}


def test_of_every_setting_it_is_known_who_decides() -> None:
    names = [name for name, _ in invalid.settings_of(settings.Settings.model_json_schema())]
    assert sorted([*ITS_OWN, *WISHES]) == sorted(names)


def test_what_the_user_sets_is_passed_on_and_nothing_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DELTASYNC_CONSISTENCY", "transaction")
    Path("deltasync.toml").write_text("""
        [source]
        dsn = "host=elsewhere"
        exclude = ["shop.audit"]
        [batch]
        rows_max = 7
        [connect]
        restart_failed_tasks = false
        [tables."shop.place"]
        on_unsupported = "skip-column"
    """)
    passed = settings.as_variables(settings.load(), WISHES)

    assert passed == {
        "DELTASYNC_CONSISTENCY": "transaction",
        "DELTASYNC_SOURCE_EXCLUDE": '["shop.audit"]',
        "DELTASYNC_BATCH_ROWS_MAX": "7",
        "DELTASYNC_CONNECT_RESTART_FAILED_TASKS": "false",
        "DELTASYNC_TABLES": '{"shop.place": {"on_unsupported": "skip-column"}}',
    }
    monkeypatch.chdir("/")
    for name, value in passed.items():
        monkeypatch.setenv(name, value)
    assert settings.as_variables(settings.load(), WISHES) == passed
