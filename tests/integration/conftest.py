"""What integration tests share."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from tests.conftest import Pipeline
from tests.integration.shop import SHOP, Source


@pytest.fixture
def source(pipeline: Pipeline) -> Iterator[Source]:
    """A source with a shop in it, not set up yet."""
    with psycopg.connect(pipeline.source_admin, autocommit=True) as admin:
        admin.execute(SHOP)
        yield Source(admin, pipeline.settings)
