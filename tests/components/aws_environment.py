"""The environment in which the AWS SDK finds nothing but what a test gives it, and asks nobody outside of this machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def isolated(directory: Path, access_key: tuple[str, str] | None, **more: str) -> Mapping[str, str | None]:
    """Return the variables to set, and with None those to remove."""
    wanted: dict[str, str | None] = {name: None for name in os.environ if name.startswith("AWS_")}
    wanted |= {
        "AWS_CONFIG_FILE": str(directory / "aws_config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(directory / "aws_credentials"),
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1",
        **more,
    }
    if access_key is not None:
        wanted |= {"AWS_ACCESS_KEY_ID": access_key[0], "AWS_SECRET_ACCESS_KEY": access_key[1]}
    return wanted
