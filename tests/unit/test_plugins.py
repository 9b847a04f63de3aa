"""Backend types are found by entry point, and what is wrong with one is said clearly."""

from __future__ import annotations

from importlib.metadata import Distribution, EntryPoint

import pytest
from pydantic import BaseModel, ConfigDict

from keyd import plugins


class Named(Distribution):
    """A distribution with a name and nothing in it."""

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def metadata(self):
        return {"Name": self._name}

    def read_text(self, filename):
        return None

    def locate_file(self, path):
        raise NotImplementedError


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Good:
    Config = Strict

    @classmethod
    def open(cls, config, context): ...
    def create(self, name, version, algorithm): ...
    def list(self): ...
    def find(self, name, version): ...
    def public_key(self, handle): ...
    def sign(self, handle, algorithm, message): ...
    def destroy(self, handle): ...
    def close(self): ...


class Lax(Good):
    Config = BaseModel


class NoSign(Good):
    sign = None


class Greedy(Good):
    class Config(Strict):
        timeout: int = 0


class NoConfig(Good):
    Config = dict


@pytest.fixture
def install(monkeypatch):
    """Provide a function that makes these the only entry points: distribution name, type, and what it loads or raises."""

    def installed(*offers):
        found = []
        for distribution, name, loaded in offers:

            def load(self, loaded=loaded):
                if isinstance(loaded, Exception):
                    raise loaded
                return loaded

            entry_point = type("Offered", (EntryPoint,), {"load": load})(name, "module:Class", plugins.GROUP)
            found.append(entry_point._for(Named(distribution)))
        monkeypatch.setattr(plugins, "entry_points", lambda group: found if group == plugins.GROUP else [])
        plugins.backend_types.cache_clear()

    yield installed
    plugins.backend_types.cache_clear()


def test_the_backends_of_this_distribution_load():
    types = plugins.backend_types()
    assert {"file", "memory"} <= types.keys()
    assert plugins.load("file").Config.model_config["extra"] == "forbid"


def test_a_type_loads(install):
    install(("keyd-x", "x", Good))
    assert plugins.load("x") is Good


def test_two_distributions_with_one_type_are_both_named(install):
    install(("keyd", "file", Good), ("evil-keyd", "file", Good))
    with pytest.raises(plugins.PluginError, match=r"'file' is offered by two distributions, keyd and evil-keyd"):
        plugins.backend_types()
    with pytest.raises(plugins.PluginError, match="two distributions"):
        plugins.load("file")


def test_an_unknown_type_lists_the_known_ones(install):
    install(("keyd", "memory", Good), ("keyd", "file", Good))
    with pytest.raises(plugins.UnknownTypeError, match="no backend type 'flie'; installed are: file, memory"):
        plugins.load("flie")


@pytest.mark.parametrize(
    ("missing", "extra"), [("boto3", "aws"), ("botocore.client", "aws"), ("hvac", "vault"), ("pkcs11", "pkcs11")]
)
def test_a_missing_optional_library_says_what_to_install(install, missing, extra):
    install(("keyd", "x", ModuleNotFoundError("no", name=missing)))
    with pytest.raises(plugins.PluginError) as caught:
        plugins.load("x")
    assert str(caught.value) == f"backend type 'x' needs the library {missing}; run: pip install 'keyd[{extra}]'"


def test_another_missing_module_names_the_distribution(install):
    install(("keyd-x", "x", ModuleNotFoundError("no", name="numpy")))
    with pytest.raises(plugins.PluginError, match="'x' of keyd-x cannot be imported: numpy is missing or broken"):
        plugins.load("x")


def test_a_type_that_fails_when_imported_shows_no_text_of_its_own(install):
    install(("keyd-x", "x", RuntimeError("hunter2")))
    with pytest.raises(plugins.PluginError, match=r"fails to load: RuntimeError$") as caught:
        plugins.load("x")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("loaded", "problem"),
    [
        (len, "its entry point is not a class"),
        (NoSign, "it has no method sign"),
        (NoConfig, "its Config is not a pydantic model"),
        (Lax, "its Config does not forbid unknown fields"),
        (Greedy, "its Config has the field timeout, which is keyd's own"),
    ],
)
def test_what_is_no_backend_is_refused(install, loaded, problem):
    install(("keyd-x", "x", loaded))
    with pytest.raises(plugins.PluginError, match=f"'x' of keyd-x is not usable: {problem}"):
        plugins.load("x")
