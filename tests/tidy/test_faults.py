"""tests/FAULTS.md names only tests that exist, and guards that the simulator takes out."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import msgspec

ROOT = Path(__file__).parents[2]
_ROWS = re.compile(r"^\| (\d+) \|.*$", re.MULTILINE)
_TESTS = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`(?: (\"[^\"]+\"))?")
_FAULTS = 50


def _tests(path: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.FunctionDef)}


def test_each_fault_is_proved_or_tells_why_not() -> None:
    rows = list(_ROWS.finditer((ROOT / "tests/FAULTS.md").read_text("utf-8")))

    assert [int(row.group(1)) for row in rows] == list(range(1, _FAULTS + 1))
    assert [row.group() for row in rows if not _TESTS.search(row.group()) and "not proved: " not in row.group()] == []


def test_what_proves_a_fault_exists() -> None:
    guards = (ROOT / "tests/property/guards.jsonl").read_text("utf-8").splitlines()
    known = {msgspec.json.decode(line)["why"] for line in guards}
    named = _TESTS.findall((ROOT / "tests/FAULTS.md").read_text("utf-8"))

    assert named
    assert [f"{path}::{test}" for path, test, _ in named if test not in _tests(ROOT / path)] == []
    assert [guard for _, _, guard in named if guard and guard.strip('"') not in known] == []
