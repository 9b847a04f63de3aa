"""Backend types: what the entry-point group ``keyd.backends`` offers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import cast

from pydantic import BaseModel

from backends.api import Backend

GROUP = "keyd.backends"

#: Top-level modules of the optional libraries, and the extra of the distribution keyd that installs each.
_EXTRAS = {"pkcs11": "pkcs11", "boto3": "aws", "botocore": "aws", "hvac": "vault"}
#: Fields of a backend's section that are keyd's own.
RESERVED = ("type", "timeout", "admin_timeout", "threads", "max_waiting")
_METHODS = ("open", "create", "list", "find", "public_key", "sign", "destroy", "close")


class PluginError(Exception):
    """A backend type is not there, is there twice, or does not load."""


class UnknownTypeError(PluginError):
    """No installed distribution offers this backend type."""


@cache
def backend_types() -> Mapping[str, EntryPoint]:
    """Return the backend types that are installed when this is asked first, by name, loading none of them.

    Raises:
        PluginError: two distributions offer the same name; the message names both.
    """
    types: dict[str, EntryPoint] = {}
    for entry_point in entry_points(group=GROUP):
        other = types.setdefault(entry_point.name, entry_point)
        if other is not entry_point:
            raise PluginError(
                f"backend type {entry_point.name!r} is offered by two distributions, {_distribution(other)} and "
                f"{_distribution(entry_point)}; uninstall one of them"
            )
    return MappingProxyType(types)


def load(type_name: str) -> type[Backend]:
    """Return the class of a backend type.

    Raises:
        UnknownTypeError: there is no such type; the message lists those that there are.
        PluginError: it cannot be imported, or is not a backend.
    """
    types = backend_types()
    if type_name not in types:
        raise UnknownTypeError(
            f"there is no backend type {type_name[:63]!r}; installed are: {', '.join(sorted(types)) or 'none'}"
        )
    entry_point = types[type_name]
    try:
        backend = entry_point.load()
    except ImportError as error:
        raise PluginError(_import_failed(entry_point, error)) from error
    except Exception as error:  # a plugin runs any code when it is imported
        message = f"backend type {type_name!r} of {_distribution(entry_point)} fails to load: {type(error).__name__}"
        raise PluginError(message) from error
    problem = _not_a_backend(backend)
    if problem:
        raise PluginError(f"backend type {type_name!r} of {_distribution(entry_point)} is not usable: {problem}")
    return cast("type[Backend]", backend)


def _distribution(entry_point: EntryPoint) -> str:
    return entry_point.dist.name if entry_point.dist is not None else "an unknown distribution"


def _import_failed(entry_point: EntryPoint, error: ImportError) -> str:
    missing = error.name or "a module"
    extra = _EXTRAS.get(missing.partition(".")[0])
    if extra is not None and isinstance(error, ModuleNotFoundError):
        return f"backend type {entry_point.name!r} needs the library {missing}; run: pip install 'keyd[{extra}]'"
    return f"backend type {entry_point.name!r} of {_distribution(entry_point)} cannot be imported: {missing} is missing or broken"


def _not_a_backend(backend: object) -> str | None:
    if not isinstance(backend, type):
        return "its entry point is not a class"
    absent = [name for name in _METHODS if not callable(getattr(backend, name, None))]
    if absent:
        return f"it has no method {absent[0]}"
    config = getattr(backend, "Config", None)
    if not (isinstance(config, type) and issubclass(config, BaseModel)):
        return "its Config is not a pydantic model"
    if config.model_config.get("extra") != "forbid":
        return "its Config does not forbid unknown fields, so that a misspelt one would be ignored"
    taken = sorted(set(config.model_fields) & set(RESERVED))
    if taken:
        return f"its Config has the field {taken[0]}, which is keyd's own"
    return None
