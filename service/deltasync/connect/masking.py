"""What must not be shown: which settings of a connector are secrets, and how to print text that may hold one."""

from __future__ import annotations

import re

MASK = "********"

_REFERENCE = re.compile(r"\$\{[^}:\s]+:[^}]*\}")
_SECRET_KEY = re.compile(
    r"(?:password|passwd|passphrase|secret|token|ssl\.keystore\.key|user\.info|jaas\.config)$", re.IGNORECASE
)
_JAAS_SECRET = re.compile(r"(?:password|secret)\s*=\s*(\"[^\"]*\"|'[^']*'|[^\s;]+)", re.IGNORECASE)
_IN_TEXT = (
    re.compile(
        r"((?:password|passwd|secret|token)[\w.]*[\"']?\s*[=:]\s*)(\"[^\"]*\"|'[^']*'|[^\s\"',;&}]+)", re.IGNORECASE
    ),
    re.compile(r"(://[^/\s:@]*:)([^@\s/]+)(?=@)"),
)


def holds_plain_secret(key: str, value: str) -> bool:
    """Whether a setting of a connector carries a secret itself instead of a reference like `${file:…:password}`."""
    if not _SECRET_KEY.search(key) or not value:
        return False
    if key.endswith("jaas.config"):
        return any(not _REFERENCE.fullmatch(found.strip("\"'")) for found in _JAAS_SECRET.findall(value))
    return not _REFERENCE.fullmatch(value)


def shown(key: str, value: str) -> str:
    """A setting's value as it may be printed: plain secrets are masked, references are not."""
    return MASK if holds_plain_secret(key, value) else mask(value)


def mask(text: str) -> str:
    """Text of another program's, with what looks like a password masked and references left as they are."""
    parts = re.split(f"({_REFERENCE.pattern})", text)
    parts[::2] = [_mask_part(part) for part in parts[::2]]
    return "".join(parts)


def _mask_part(text: str) -> str:
    for pattern in _IN_TEXT:
        text = pattern.sub(rf"\g<1>{MASK}", text)
    return text
