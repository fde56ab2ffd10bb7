"""The settings: what cannot be read is named, and never shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from deltasync.errors import SettingsError
from deltasync.settings import Settings

SECRET = "s3cr3t"  # noqa: S105 - what must not be shown


def test_a_password_file_replaces_the_password(tmp_path: Path) -> None:
    """Read at each connect: it may change while the service runs."""
    file = tmp_path / "password"
    settings = Settings.model_validate({"replica": {"dsn": "host=h user=u password=old", "password_file": file}})
    for password in ("first", "second"):
        file.write_text(f"{password}\n")
        assert conninfo_to_dict(settings.replica.conninfo() or "")["password"] == password


def test_a_password_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for file, content in ((tmp_path / "missing", None), (tmp_path / "binary", b"\xff" + SECRET.encode())):
        if content is not None:
            file.write_bytes(content)
        settings = Settings.model_validate({"replica": {"dsn": "host=h", "password_file": file}})
        with pytest.raises(SettingsError, match=file.name) as caught:
            settings.replica.conninfo()
        assert SECRET not in str(caught.value)


def test_a_connection_string_that_cannot_be_read_is_not_shown() -> None:
    """A password with a space in it ends up in the driver's message."""
    settings = Settings.model_validate({"source": {"dsn": f"host=h password=a {SECRET}"}})
    for ask in (settings.source.conninfo, settings.variables):
        with pytest.raises(SettingsError, match="cannot be read") as caught:
            ask()
        assert SECRET not in str(caught.value)


def test_whole_transactions_do_not_go_with_ordered_constraints() -> None:
    """Their initial snapshot would wait for ever."""
    with pytest.raises(ValueError, match=r"needs constraints"):
        Settings.model_validate({"consistency": "transaction", "replica": {"constraints": "ordered"}})
