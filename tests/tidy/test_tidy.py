"""The repository lints itself: what no formatter or type checker looks for."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FUNCTION_LINES_MAX = 60
MODULE_LINES_MAX = 400

# A letter in brackets keeps a pattern from finding itself.
BANNED = {
    "a path of one machine": re.compile(r"(?<![\w.~$}-])/(?:hom[e]|User[s]|roo[t]|wor[k])/\w"),
    "the address of a registry": re.compile(
        r"http[s]?://\S+(?:/(?:simple|maven2|packages)/|\.(?:whl|jar|tgz|crate)\b)"
    ),
    "a note of unfinished work": re.compile(r"\b(?:TOD[O]|FIXM[E]|XX[X]|NotImplementedErro[r])\b"),
}


def _files(*patterns: str) -> list[Path]:
    """Every file that is or could be committed, by pattern."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *patterns]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout.split("\0")
    return [path for name in names if name and (path := ROOT / name).is_file()]


def _places(path: Path, pattern: re.Pattern[str]) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        return []
    return [f"{path.relative_to(ROOT)}:{number}" for number, line in enumerate(lines, 1) if pattern.search(line)]


@pytest.mark.parametrize("what", BANNED)
def test_no_file_holds(what: str) -> None:
    assert [place for path in _files() for place in _places(path, BANNED[what])] == []


def test_functions_fit_on_a_screen() -> None:
    def length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
        return (node.end_lineno or node.lineno) - node.lineno + 1

    long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in _files("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and length(node) > FUNCTION_LINES_MAX
    ]

    assert long == []


def test_modules_are_short() -> None:
    long = [path.name for path in _files("*.py") if len(path.read_text("utf-8").splitlines()) > MODULE_LINES_MAX]

    assert long == []
