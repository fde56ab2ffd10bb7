"""Settings that are not valid: the error names the place as it was written, says what is expected, and no value."""

from __future__ import annotations

from pathlib import Path

import pytest

from deltasync import settings
from deltasync.errors import SettingsError

SECRET = "s3cr3t"  # noqa: S105 - what must not be shown

# What the file holds, what the error says, and what its remedy says.
IN_FILE = [
    ("[batch]\nrow_max = 7", "`row_max` in [batch] of {} is not a setting.", "Did you mean `rows_max`?"),
    (f"[kafka]\nsasl = '{SECRET}'", "`sasl` in [kafka] of {} is not", "Known there: `bootstrap`, `group`, "),
    ("pipelin = 'a'", "`pipelin` of {} is not a setting.", "Did you mean `pipeline`?"),
    ("[replca]\ndsn = 'host=h'", "[replca] of {} is not a setting.", "Did you mean `replica`?"),
    (f"dsn = '{SECRET}'", "`dsn` of {} is not a setting.", "`dsn` belongs in [source] or in [replica]."),
    ("[kafka]\npipeline = 'a'", "`pipeline` in [kafka] of {} is not", "`pipeline` belongs above the first [section]."),
    (f"replica = '{SECRET}'", "`replica` of {} has a value", "a section of its own, [replica], with `dsn`, "),
    ("pipeline = 'A b'", "`pipeline` of {} has a value", "at most 40 lower-case letters, digits and _, in quotes."),
    ("pipeline = 7", "`pipeline` of {} has a value", "Give it at most 40 lower-case letters"),
    ("consistency = 'row'", "`consistency` of {} has a value", 'Give it "key" or "transaction".'),
    ("[batch]\nrows_max = 'many'", "`rows_max` in [batch] of {} has a value", "a whole number from 1 to 1000000."),
    ("[batch]\nrows_max = 0", "`rows_max` in [batch] of {} has a value", "a whole number from 1 to 1000000."),
    ("[batch]\nspool_bytes_max = 1", "`spool_bytes_max` in [batch] of {}", "a whole number from 1048576."),
    ("[replica]\nretry_s_max = 0", "`retry_s_max` in [replica] of {} has", "Give it a number above 0."),
    ("[connect]\nraw_text = 'often'", "`raw_text` in [connect] of {} has", "Give it true or false."),
    ("[connect]\nsource_port = 'x'", "`source_port` in [connect] of {} has", "Give it a whole number."),
    ("[connect]\nurl = 7", "`url` in [connect] of {} has", "Give it a text in quotes."),
    (f"[source]\ndsn = ['{SECRET}']", "`dsn` in [source] of {} has", "Give it a text in quotes."),
    ("[source]\nschemas = 'shop'", "`schemas` in [source] of {} has", 'texts in quotes, such as ["shop", "billing"].'),
    ("[source]\nschemas = [7]", "`schemas` in [source] of {} has", 'texts in quotes, such as ["shop", "billing"].'),
    ("[source]\nexclude = ['a']", "`exclude` in [source] of {} has", 'in quotes, such as ["shop.audit"].'),
    ("unavailable_value = 'short'", "`unavailable_value` of {} has", "a random word of at least 16 letters, "),
    ("[kafka]\noptions = 7", "`options` in [kafka] of {} has", 'values, such as {"security.protocol": "SSL"}.'),
    (f"[kafka.options]\na = ['{SECRET}']", "`a` in [kafka.options] of {} has", "a text in quotes or a whole number or"),
    ("[tables.shop.place]\non_unsupported = 'refuse'", "[tables.shop] of {} names no table.", '[tables."shop.place"].'),
    ("[tables.place]\non_unsupported = 'refuse'", "[tables.place] of {} names no table.", '[tables."schema.table"].'),
    ("[tables.'a.b']\non_unsuported = 'x'", '`on_unsuported` in [tables."a.b"] of {} is not', "mean `on_unsupported`?"),
    ("[tables.'a.b']\non_unsupported = 'skip'", '`on_unsupported` in [tables."a.b"] of {} has', 'or "skip-column".'),
    ("[tables]\n'a.b' = 'refuse'", '`"a.b"` in [tables] of {} has', "with `on_unsupported`."),
    ("[batch\nrows_max = 7", "The settings file {} is not valid TOML: ", "Correct it there."),
    ("pipeline = b", "{} is not valid TOML: Invalid value (at line 1, column 12).", "Correct it there."),
]  # fmt: skip

# A variable, and what the error and its remedy say.
IN_ENVIRONMENT = [
    ("BATCH_ROW_MAX", "7", "variable DELTASYNC_BATCH_ROW_MAX is not a setting.", "mean DELTASYNC_BATCH_ROWS_MAX?"),
    ("XYZ", SECRET, "The environment variable DELTASYNC_XYZ is not", "Unset it. Known are DELTASYNC_PIPELINE, "),
    ("TABLES_SHOP_PLACE", "x", "variable DELTASYNC_TABLES_SHOP_PLACE is not", "DELTASYNC_TABLES='{\"shop.place\": {"),
    ("KAFKA_OPTIONS_SASL", SECRET, "DELTASYNC_KAFKA_OPTIONS_SASL is not", "all at once: DELTASYNC_KAFKA_OPTIONS='{"),
    ("BATCH_ROWS_MAX", "many", "DELTASYNC_BATCH_ROWS_MAX has a value", "a whole number from 1 to 1000000."),
    ("CONSISTENCY", "row", "DELTASYNC_CONSISTENCY has a value", 'Give it "key" or "transaction".'),
    ("SOURCE_SCHEMAS", "shop", "DELTASYNC_SOURCE_SCHEMAS is not JSON.", "DELTASYNC_SOURCE_SCHEMAS='[\"shop\", "),
    ("SOURCE_EXCLUDE", "shop.a", "DELTASYNC_SOURCE_EXCLUDE is not JSON.", "SOURCE_EXCLUDE='[\"shop.audit\"]'"),
    ("KAFKA_OPTIONS", SECRET, "DELTASYNC_KAFKA_OPTIONS is not JSON.", "DELTASYNC_KAFKA_OPTIONS='{\"security"),
    ("SOURCE_SCHEMAS", "7", "DELTASYNC_SOURCE_SCHEMAS has a value", "a list of texts in quotes"),
    ("TABLES", "shop.place", "DELTASYNC_TABLES is not JSON.", "DELTASYNC_TABLES='{\"shop.place\": {"),
    ("TABLES", '{"a": {}}', "`a` in DELTASYNC_TABLES names no table.", 'Write "schema.table" in JSON.'),
    ("TABLES", '{"a.b": {"x": 1}}', "`x` in `a.b` in DELTASYNC_TABLES is not", "Known there: `on_unsupported`."),
    ("TABLES", '{"a.b": {"on_unsupported": 1}}', "`on_unsupported` in `a.b` in DELTASYNC_TABLES has", '"refuse" or '),
]  # fmt: skip


def _error() -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        settings.load()
    assert SECRET not in str(caught.value)
    assert caught.value.exit_code == 2
    return caught.value


@pytest.fixture
def file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DELTASYNC_CONFIG", "mine.toml")
    return tmp_path / "mine.toml"


@pytest.mark.parametrize(("content", "what", "remedy"), IN_FILE)
def test_what_is_wrong_in_the_file(file: Path, content: str, what: str, remedy: str) -> None:
    file.write_text(content)
    error = _error()
    assert what.format("mine.toml") in error.what
    assert remedy in error.remedy


@pytest.mark.parametrize(("name", "value", "what", "remedy"), IN_ENVIRONMENT)
def test_what_is_wrong_in_the_environment(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, what: str, remedy: str
) -> None:
    monkeypatch.setenv(f"DELTASYNC_{name}", value)
    error = _error()
    assert what in error.what
    assert remedy in error.remedy


def test_of_two_places_the_one_that_is_wrong_is_named(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    """The environment and the file add up."""
    file.write_text("[tables.'a.b']\non_unsuported = 'x'")
    monkeypatch.setenv("DELTASYNC_TABLES", '{"a.b": {"on_unsupported": "refuse"}}')
    assert "of mine.toml" in _error().what


def test_a_variable_in_small_letters_counts_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("deltasync_batch_rows_max", "many")
    assert _error().what.startswith("DELTASYNC_BATCH_ROWS_MAX has")


def test_settings_that_do_not_go_together_are_both_named(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    file.write_text("[replica]\nconstraints = 'ordered'")
    monkeypatch.setenv("DELTASYNC_CONSISTENCY", "transaction")
    error = _error()
    assert "DELTASYNC_CONSISTENCY and `constraints` in [replica] of mine.toml do not go together" in error.what
    assert 'consistency = "key"' in error.remedy


def test_a_file_that_cannot_be_read_is_named(file: Path) -> None:
    assert "There is no settings file mine.toml" in _error().what
    file.write_bytes(b"\xff")
    assert "mine.toml is not valid TOML: it is not UTF-8" in _error().what


def test_what_stands_in_place_of_the_file_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deltasync.toml").mkdir()
    assert "deltasync.toml cannot be read: Is a directory" in _error().what


def test_a_connection_string_names_its_place(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    file.write_text(f"[source]\ndsn = 'x {SECRET}'\n[replica]\nadmin_dsn = 'x {SECRET}'")
    monkeypatch.setenv("DELTASYNC_REPLICA_DSN", f"x {SECRET}")
    found = settings.load()
    asked = {
        found.source.conninfo: "`dsn` in [source] of mine.toml cannot be read.",
        found.replica.conninfo: "DELTASYNC_REPLICA_DSN cannot be read.",
        found.replica.admin_conninfo: "`admin_dsn` in [replica] of mine.toml cannot be read.",
    }
    for ask, what in asked.items():
        with pytest.raises(SettingsError) as caught:
            ask()
        assert caught.value.what == what
        assert SECRET not in str(caught.value)


def test_what_is_missing_names_variable_and_file(file: Path) -> None:
    file.touch()
    with pytest.raises(SettingsError) as caught:
        settings.load().need("replica.dsn")
    assert caught.value.remedy == "Set DELTASYNC_REPLICA_DSN in the environment, or `dsn` in [replica] of mine.toml."
