"""Why a worker is not ready."""

from __future__ import annotations

import msgspec


class Reason(msgspec.Struct, frozen=True):
    """`what` is wrong, `why` as far as it is known, and what to do about it; never a row's value or a password."""

    what: str
    why: str
    remedy: str
