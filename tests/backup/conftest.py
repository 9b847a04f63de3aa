"""A daemon's directory, and machines to restore it to."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from backup_support import (
    CONFIG,
    configured,
)
from components.postgres import Database, fresh_database
from older_databases import KEK, lay_out

from keyd.config import Config
from keyd.core.store import SqlStore


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("template")
    lay_out("0002", directory)
    SqlStore(directory / "state/keyd.db").close()
    return directory


@pytest.fixture
def source(tmp_path: Path, template: Path) -> Config:
    """A daemon's directory with keys in every state, of the schema of today."""
    shutil.copytree(template, tmp_path / "source")
    return configured(tmp_path / "source")


@pytest.fixture
def empty(tmp_path: Path) -> Config:
    """Another machine, with the same key-encryption key and nothing else."""
    directory = tmp_path / "target"
    directory.mkdir()
    (directory / "kek").write_bytes(KEK)
    (directory / "kek").chmod(0o400)
    return configured(directory)


@pytest.fixture
def shared(empty: Config) -> Iterator[tuple[Config, Database]]:
    """Another machine, whose metadata is in PostgreSQL."""
    with fresh_database() as made:
        text = CONFIG + f'[store]\nurl = "{made.url}"\nreplica = "one"\n'
        yield configured(empty.server.state_dir.parent, text), made
