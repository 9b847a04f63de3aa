from collections.abc import Iterator

import pytest
from components import postgres


@pytest.fixture
def database() -> Iterator[postgres.Database]:
    with postgres.fresh_database() as database:
        yield database
