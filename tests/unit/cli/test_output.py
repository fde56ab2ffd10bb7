"""What commands print: whole in a pipe whatever the terminal's width, folded on a narrow terminal, never cut."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from rich.console import Console

import deltasync.cli
from deltasync.cli import output

NARROW = 40
LONG = "a_pipeline_of_forty_letters_at_the_most"
COMMAND = [sys.executable, "-m", "deltasync.cli.main", "settings"]
ENV = {"PATH": os.environ["PATH"], "COLUMNS": str(NARROW), "TERM": "xterm", "DELTASYNC_PIPELINE": LONG}


def test_in_a_pipe_nothing_is_cut_or_folded(tmp_path: Path) -> None:
    done = subprocess.run(COMMAND, env=ENV, cwd=tmp_path, capture_output=True, text=True, check=True)
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["kafka.topic_prefix", "DELTASYNC_KAFKA_TOPIC_PREFIX", LONG, "pipeline"] in lines
    assert "…" not in done.stdout


def test_a_narrow_terminal_folds_and_cuts_nothing(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, NARROW))
    process = subprocess.Popen(COMMAND, env=ENV, cwd=tmp_path, stdout=theirs, stdin=theirs)
    os.close(theirs)
    said = _all(ours)
    assert process.wait(30) == 0
    lines = re.sub(r"\x1b\[[0-9;]*m", "", said).splitlines()
    assert max(map(len, lines)) <= NARROW
    assert "…" not in said
    assert len(lines) > said.count("default")


def _all(terminal: int) -> str:
    """What is written to a terminal until nobody holds its other end, which Linux tells by an error."""
    found = b""
    try:
        while chunk := os.read(terminal, 65536):
            found += chunk
    except OSError:
        pass
    os.close(terminal)
    return found.decode()


def test_a_folded_cell_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    said = io.StringIO()
    monkeypatch.setattr(output, "console", Console(file=said, width=10, force_terminal=True, color_system=None))
    made = output.table("t")
    output.row(made, [LONG])
    output.console.print(made)
    assert LONG in "".join(line.strip() for line in said.getvalue().splitlines())


def test_brackets_in_a_name_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    made = output.table("t")
    output.row(made, ["shop.a[red]b"])
    output.console.print(made)
    output.say("table shop.a[red]b created")
    assert capsys.readouterr().out.count("shop.a[red]b") == 2


def test_all_tables_are_made_in_one_place() -> None:
    """Any other would cut what is too long."""
    folder = Path(deltasync.cli.__file__).parent
    assert [file.name for file in folder.glob("*.py") if re.search(r"\bTable\(", file.read_text())] == ["output.py"]
