"""The broker's settings."""

from __future__ import annotations

import base64

from deltasync.local.kafka import cluster_id


def test_a_cluster_id_is_never_taken_for_an_option() -> None:
    found = {cluster_id() for _ in range(500)}
    assert len(found) == 500
    assert not any(one.startswith("-") for one in found)
    assert all(len(base64.urlsafe_b64decode(one + "==")) == 16 for one in found)
