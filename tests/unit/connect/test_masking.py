"""What is printed never holds a secret, and still says what is wrong."""

from __future__ import annotations

import pytest

from deltasync.connect.masking import MASK, mask, shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("password=hunter2 user=dbz", f"password={MASK} user=dbz"),
        ('{"password": "hunter2"}', f'{{"password": {MASK}}}'),
        ("jdbc:postgresql://dbz:hunter2@db:5432/erp", f"jdbc:postgresql://dbz:{MASK}@db:5432/erp"),
        (
            'FATAL: password authentication failed for user "dbz"',
            'FATAL: password authentication failed for user "dbz"',
        ),
        ("${file:/run/secret.properties:password}", "${file:/run/secret.properties:password}"),
    ],
)
def test_text_is_masked(text: str, expected: str) -> None:
    assert mask(text) == expected


def test_settings_are_shown_unless_they_are_plain_secrets() -> None:
    assert shown("database.password", "hunter2") == MASK
    assert shown("database.password", "${file:/f:password}") == "${file:/f:password}"
    assert shown("database.hostname", "db") == "db"
