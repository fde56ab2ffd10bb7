"""What every command prints alike: errors with a remedy, JSON, tables, sentences.

A terminal wraps and folds what is too long for it; in a pipe or a file nothing is cut, wrapped or folded.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TextIO

import msgspec
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from deltasync.errors import DeltasyncError

# Wider than any table can be.
_BOUNDLESS = 2**20


def _console(stream: TextIO, *, stderr: bool = False) -> Console:
    width = None if stream.isatty() else _BOUNDLESS
    return Console(stderr=stderr, highlight=False, width=width)


console = _console(sys.stdout)
stderr = _console(sys.stderr, stderr=True)


def failure(error: DeltasyncError) -> None:
    """Print what is wrong and what to do, on standard error."""
    stderr.print("[bold red]error[/]: ", end="")
    stderr.print(error.what, markup=False, soft_wrap=True)
    if error.remedy:
        stderr.print("[bold]do[/]: ", end="")
        stderr.print(error.remedy, markup=False, soft_wrap=True)


def say(text: str | Text) -> None:
    """Print a text as it is, on standard output."""
    console.print(text, markup=False, soft_wrap=True)


def doing(text: str) -> None:
    """Tell on standard error what is being done."""
    stderr.print(f"{text} …", markup=False, soft_wrap=True)


def json(value: object) -> None:
    """Print a value as indented JSON on standard output (msgspec structs and dataclasses included)."""
    say(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def right(*names: str) -> tuple[Column, ...]:
    """The heads of columns of figures."""
    return tuple(Column(name, justify="right") for name in names)


def table(*columns: str | Column, head: bool = True) -> Table:
    """An empty table whose cells are never cut: a narrow terminal folds them."""
    made = Table(*columns, box=None, show_header=head)
    for column in made.columns:
        column.overflow = "fold"
    return made


def row(to: Table, cells: Sequence[str | Text], style: str = "") -> None:
    """Add a row of texts that are shown as they are: a name may hold brackets."""
    to.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells), style=style)
