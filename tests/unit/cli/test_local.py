"""`deltasync local` without the extra that it needs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from deltasync.cli import local
from deltasync.errors import SettingsError


def test_a_missing_extra_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for module in [name for name in sys.modules if name.startswith("deltasync.local")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "psutil", None)
    with pytest.raises(SettingsError, match="needs the package psutil") as caught:
        local.status(tmp_path)
    assert caught.value.remedy == "pip install 'deltasync[local]'"
