"""Which tables the initial snapshot reads."""

from __future__ import annotations

import re

import pytest

from deltasync.settings import Settings
from deltasync.source.snapshot import pattern, template_variables


@pytest.mark.parametrize("name", ["shop.orders", 'shop."Order, Line"', "a.b.c", "s.t$1", "s.überall", "s.a{}b"])
def test_a_pattern_is_its_name_and_nothing_else(name: str) -> None:
    """No comma ends the entry, no character matches another."""
    made = pattern(name)
    # Java writes \\x{2e} where Python writes \\x2e.
    in_python = re.sub(r"\\x\{([0-9a-f]+)\}", lambda found: re.escape(chr(int(found[1], 16))), made)

    assert "," not in made
    assert re.fullmatch(in_python, name)
    assert not re.fullmatch(in_python, name.replace(".", "x"))


def test_without_the_source_every_table_of_the_schemas_is_read() -> None:
    """What is not captured is passed over by the applier, then."""
    variables = template_variables(Settings.model_validate({"source": {"schemas": ("shop", "a.b")}}))

    assert variables["DELTASYNC_SOURCE_TABLES"] == r"(shop|a\.b)[.].*,deltasync[.](schema_log|canary)"
