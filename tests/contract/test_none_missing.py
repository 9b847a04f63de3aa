"""A backend that is registered without a contract test is not finished."""

import importlib.util
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from backends.testing import BackendContract

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
GROUP = "keyd.backends"
REGISTERED = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"][GROUP]


def classes_under_contract(folder: Path) -> set[type]:
    """Import every test file of the folder and return what their suites test, whether or not pytest runs them now."""
    classes = set()
    for number, path in enumerate(sorted(folder.glob("test_*.py"))):
        if path == Path(__file__):
            continue
        name = f"_contract_{number}_{path.stem}"
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        finally:
            del sys.modules[name]
        classes |= {
            value.backend_class
            for attribute, value in vars(module).items()
            if attribute.startswith("Test") and isinstance(value, type) and issubclass(value, BackendContract)
        }
    return classes


@pytest.mark.parametrize("name", sorted(REGISTERED))
def test_registered_backend_has_a_contract_test(name: str) -> None:
    backend_class = EntryPoint(name, REGISTERED[name], GROUP).load()
    assert backend_class in classes_under_contract(HERE), (
        f"{name} is registered; subclass BackendContract for it in tests/contract"
    )


def test_a_missing_one_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "test_file.py").write_text((HERE / "test_file.py").read_text())
    assert {backend_class.__name__ for backend_class in classes_under_contract(tmp_path)} == {"FileBackend"}
