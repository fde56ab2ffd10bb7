"""The SQL of a set-up, made from settings and facts alone."""

from __future__ import annotations

from deltasync.source.statements import READER_SETTINGS, VERSION, Installed, Pipeline, Reader, statements
from deltasync.table import TableId

PIPELINE = Pipeline("shop", "shop", "shop", ("shop", 'odd "name"'), (TableId("shop", "it's.this"),))
READER = Reader('read"er', "SCRAM-SHA-256$verifier", admin=False)
_PUBLISHED = ("canary", "schema_log", "signal")
DONE = Installed(VERSION, True, {k.lower(): v for k, v in READER_SETTINGS.items()}, True, _PUBLISHED)  # noqa: FBT003


def _text(reader: Reader = READER, installed: Installed = DONE) -> str:
    return "\n".join(step.shown for step in statements(PIPELINE, reader, installed))


def test_names_and_values_are_quoted() -> None:
    text = _text(installed=Installed())

    assert 'CREATE ROLE "read""er" LOGIN REPLICATION NOINHERIT' in text
    assert 'GRANT USAGE ON SCHEMA "shop", "odd ""name""", "deltasync" TO "read""er"' in text
    assert "VALUES ('shop', 'it''s.this', 'shop')" in text


def test_a_password_is_run_but_not_shown() -> None:
    steps = statements(PIPELINE, READER, Installed())
    (create,) = (step for step in steps if "CREATE ROLE" in step.shown)

    assert "verifier" not in "".join(step.shown for step in steps)
    assert create.shown.endswith("PASSWORD '***'")
    assert create.text.as_string(None).endswith("PASSWORD 'SCRAM-SHA-256$verifier'")


def test_what_is_there_is_not_made_again() -> None:
    text = _text()

    assert not any(
        made in text
        for made in ("CREATE SCHEMA IF", "CREATE TABLE deltasync", "CREATE ROLE", "ALTER ROLE", "ADD TABLE deltasync")
    )
    assert "CREATE PUBLICATION" not in text


def test_a_setting_that_was_changed_is_pinned_again_and_a_lost_table_added() -> None:
    text = _text(installed=DONE._replace(role_settings={"timezone": "Asia/Tokyo"}, published=("canary",)))

    assert """ALTER ROLE "read""er" SET "TimeZone" = 'UTC'""" in text
    assert 'ALTER PUBLICATION "shop" ADD TABLE deltasync.schema_log' in text
    assert "ADD TABLE deltasync.canary" not in text


def test_a_pipeline_hears_its_own_signals_alone() -> None:
    """Whether its publication is made, or was there before there were signals."""
    which = """deltasync.signal WHERE (split_part(id, ':', 1) = 'shop' OR id ~ '-(open|close)$')"""

    assert which in _text(installed=Installed())
    assert f'ALTER PUBLICATION "shop" ADD TABLE {which}' in _text(
        installed=DONE._replace(version=4, published=("canary", "schema_log"))
    )
    assert "GRANT INSERT ON deltasync.signal" in _text()


def test_an_administrator_who_reads_himself_is_granted_nothing() -> None:
    text = _text(Reader("postgres", None, admin=True), Installed())

    assert "ROLE" not in text
    assert "GRANT USAGE" not in text
