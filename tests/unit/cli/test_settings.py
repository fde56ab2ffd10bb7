"""`deltasync settings`: everything that is in force, and no secret."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deltasync.cli.main import app

SECRET = "geheim"  # noqa: S105 - what must not be printed
GIVEN = {
    "DELTASYNC_SOURCE_DSN": f"postgresql://u:{SECRET}@db.example:5433/shop?sslpassword={SECRET}",
    "DELTASYNC_REPLICA_DSN": f"host=h password={SECRET}",
    "DELTASYNC_REPLICA_ADMIN_DSN": f"not a dsn {SECRET}",
    "DELTASYNC_CONNECT_URL": f"http://u:{SECRET}@connect.example:8083",
    "DELTASYNC_CONNECT_SOURCE_PASSWORD": SECRET,
    "DELTASYNC_KAFKA_OPTIONS": json.dumps({"sasl.password": SECRET, "ssl.key.pem": SECRET, "linger.ms": 5}),
}


@pytest.fixture(autouse=True)
def _given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    Path("deltasync.toml").write_text('pipeline = "shop"\n[batch]\nrows_max = 7\n')
    for name, value in GIVEN.items():
        monkeypatch.setenv(name, value)


def test_secrets_are_masked() -> None:
    for arguments in (["settings"], ["settings", "--json"]):
        done = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert done.exit_code == 0
        assert SECRET not in done.output


def test_each_setting_says_where_it_comes_from() -> None:
    rows = json.loads(CliRunner().invoke(app, ["settings", "--json"]).output)
    found = {row["name"]: (row["variable"], row["value"], row["from"]) for row in rows}
    assert found["pipeline"] == ("DELTASYNC_PIPELINE", "shop", "file")
    assert found["batch.rows_max"] == ("DELTASYNC_BATCH_ROWS_MAX", 7, "file")
    assert found["batch.bytes_max"][2] == "default"
    assert found["kafka.group"] == ("DELTASYNC_KAFKA_GROUP", "shop", "pipeline")
    assert found["source.dsn"][2] == "environment"
    assert "host=db.example" in found["source.dsn"][1]
    assert found["kafka.options"][1]["linger.ms"] == "5"
