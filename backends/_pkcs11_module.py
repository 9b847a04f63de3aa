"""PKCS#11 modules: shared objects, each initialised once per process for all backends that use it.

Everything that reaches below the public interface of python-pkcs11 is in this file. The library initialises modules as for a
program with one thread, ``C_Initialize(NULL)``, and then calls them from many, without the GIL: SoftHSM, which believes it and
uses no locks, corrupts its memory within a second. So modules are initialised here, with CKF_OS_LOCKING_OK, and the library's
object is made without its own initialisation.

Even so not every call may meet every other:

* Signing goes on in parallel, one session per signature under way.
* All else, finding objects and reading their attributes above all, happens under one mutex (:meth:`Module.exclusively`).
* ``C_Finalize`` while anything else is under way crashes, and tpm2-pkcs11 destroys no key that another session signs with. Both
  wait for the signatures under way (:meth:`Module.quiet`).
"""

from __future__ import annotations

import ctypes
import logging
import os
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar, Self

from pkcs11 import Attribute, KeyType, _pkcs11
from pkcs11.attributes import AttributeMapper
from pkcs11.exceptions import AttributeSensitive, AttributeTypeInvalid, FunctionFailed, PKCS11Error

from backends import deadline
from backends.errors import BackendConfigError, BackendUnavailableError

#: How long a call waits for others when it has no deadline.
PATIENCE = 30.0
_CLOSE_PATIENCE = 5.0  # a daemon that ends does not wait longer for a module that hangs

_CKR_OK = 0x0
_CKR_ARGUMENTS_BAD = 0x7
_CKR_CRYPTOKI_NOT_INITIALIZED = 0x190
_CKR_CRYPTOKI_ALREADY_INITIALIZED = 0x191
_NO_THREADS = {0x9, 0xA}  # CKR_NEED_TO_CREATE_THREADS, CKR_CANT_LOCK
_CKF_OS_LOCKING_OK = 0x2
# As good as absent: what a token does not have, or does not give, or not in the form of the standard.
_ABSENT = (AttributeSensitive, AttributeTypeInvalid, FunctionFailed, ValueError, struct.error)
_log = logging.getLogger("keyd.backends.pkcs11")


class _InitializeArgs(ctypes.Structure):
    """CK_C_INITIALIZE_ARGS."""

    _fields_: ClassVar = [
        *((name, ctypes.c_void_p) for name in ("CreateMutex", "DestroyMutex", "LockMutex", "UnlockMutex")),
        ("flags", ctypes.c_ulong),
        ("pReserved", ctypes.c_void_p),
    ]


class _NssInitializeArgs(ctypes.Structure):
    """NSS's own CK_C_INITIALIZE_ARGS, with one member more before the last."""

    _fields_: ClassVar = [
        *_InitializeArgs._fields_[:5],
        ("LibraryParameters", ctypes.c_char_p),
        ("pReserved", ctypes.c_void_p),
    ]


class _FunctionList(ctypes.Structure):
    """The head of CK_FUNCTION_LIST."""

    _fields_: ClassVar = [
        ("version", ctypes.c_ubyte * 2),
        ("C_Initialize", ctypes.CFUNCTYPE(ctypes.c_ulong, ctypes.c_void_p)),
        ("C_Finalize", ctypes.CFUNCTYPE(ctypes.c_ulong, ctypes.c_void_p)),
    ]


class Module:
    """One shared object. Get it with :meth:`acquire`, and give it back with :meth:`release`."""

    _all: ClassVar[dict[str, Module]] = {}
    _all_lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, path: str) -> None:
        self.path = path
        #: Goes up with every initialisation. Tokens, sessions and objects of an older generation are dead.
        self.generation = 0
        #: What is logged in, by slot: belongs to :mod:`backends._pkcs11_login`, and is emptied with the generation.
        self.logins: dict[int, Any] = {}
        self.environment: dict[str, str] = {}
        self.library_parameters: str | None = None
        self._users = 0
        self._mutex = threading.Lock()
        self._readers: set[threading.Lock] = set()
        self._initialized = False
        self._attempted = float("-inf")
        self._functions = _load(path)
        # __new__ loads the shared object; __init__, which is left out, would initialise it.
        self.library: Any = _pkcs11.lib.__new__(_pkcs11.lib, path)  # type: ignore[call-arg]

    @classmethod
    def acquire(cls, path: Path, environment: Mapping[str, str], library_parameters: str | None) -> Self:
        """Return the module in this file, for one more backend. It is initialised by the first :meth:`reopen`.

        Raises:
            BackendConfigError: it cannot be loaded, or a backend uses it, or a variable, otherwise.
        """
        real, mine = os.path.realpath(path), dict(environment)
        with cls._all_lock:
            used = {module.path: module for module in cls._all.values() if module._users}
            same = used.get(real)
            if same is not None and (same.environment, same.library_parameters) != (mine, library_parameters):
                raise BackendConfigError(
                    f"another backend uses the module {path} with another environment or library_parameters; "
                    "a module has one of each per process, so give both backends the same"
                )
            for name in {
                name for module in used.values() for name, value in module.environment.items() if mine.get(name, value) != value
            }:
                raise BackendConfigError(
                    f"another backend sets the environment variable {name} to something else; "
                    "a process has one environment, so give both backends the same"
                )
            for name, value in mine.items():
                if os.environ.get(name) != value:  # setenv(3) is not safe beside threads: only where it must be
                    os.environ[name] = value
            # Some modules read their environment as soon as they are loaded.
            module = cls._all.get(real) or cls(real)
            cls._all[real] = module
            module.environment, module.library_parameters = mine, library_parameters
            module._users += 1
            return module  # type: ignore[return-value]  # nobody subclasses it

    def release(self) -> None:
        """Give the module back; the last one finalises it."""
        with self._all_lock:
            self._users -= 1
            if self._users:
                return
            try:
                with deadline.within(_CLOSE_PATIENCE), self.exclusively(), self.quiet():
                    self._finalize()
            except BackendUnavailableError:
                _log.warning("the module %s is busy and stays open until the process ends", self.path)
            self._attempted = float("-inf")

    @contextmanager
    def exclusively(self) -> Iterator[None]:
        """Hold the mutex that everything but signing goes under.

        Raises:
            BackendUnavailableError: others held it until the deadline.
        """
        if not self._mutex.acquire(timeout=deadline.remaining(PATIENCE)):
            raise BackendUnavailableError(f"the module {self.path} is busy with other calls")
        try:
            yield
        finally:
            self._mutex.release()

    def reader(self) -> threading.Lock:
        """Return a new lock that its owner, alone, holds while it signs. :meth:`quiet` takes them all.

        Call it under the mutex. The lock is good for the present generation.
        """
        lock = threading.Lock()
        self._readers.add(lock)
        return lock

    @property
    def is_open(self) -> bool:
        """True while the module is initialised."""
        return self._initialized

    def reopen(self, interval: float, cause: Exception) -> None:
        """Finalise the module and initialise it again, and so begin a new generation. Call it under the mutex.

        Args:
            interval: the seconds that must have passed since this was last tried.
            cause: why.

        Raises:
            BackendUnavailableError: too early, or the module does not come up, or signatures under way do not end.
            BackendConfigError: it never will.
        """
        wait = self._attempted + interval - time.monotonic()
        if wait > 0:
            raise BackendUnavailableError(f"{cause}; the module is opened again by a call after {wait:.1f} s") from cause
        with self.quiet():
            self._attempted = time.monotonic()
            self._finalize()
            self._initialize()

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Keep everybody from signing. Call it under the mutex.

        Raises:
            BackendUnavailableError: a signature under way did not end before the deadline.
        """
        held = []
        try:
            for lock in [*self._readers]:
                if not lock.acquire(timeout=deadline.remaining(PATIENCE)):
                    raise BackendUnavailableError(f"the module {self.path} does not end a signature under way")
                held.append(lock)
            yield
        finally:
            for lock in held:
                lock.release()

    def _finalize(self) -> None:
        self.generation += 1
        self.logins.clear()
        self._readers.clear()
        if self._initialized:
            value = self._functions.C_Finalize(None)
            if value in (_CKR_OK, _CKR_CRYPTOKI_NOT_INITIALIZED):
                self._initialized = False
            else:
                _log.warning("the module %s does not finalise (return value %#x)", self.path, value)

    def _initialize(self) -> None:
        if self.library_parameters is None:
            value = self._functions.C_Initialize(ctypes.byref(_InitializeArgs(flags=_CKF_OS_LOCKING_OK)))
        else:
            parameters = self.library_parameters.encode()
            value = self._functions.C_Initialize(
                ctypes.byref(_NssInitializeArgs(flags=_CKF_OS_LOCKING_OK, LibraryParameters=parameters))
            )
        if value == _CKR_OK or (value == _CKR_CRYPTOKI_ALREADY_INITIALIZED and self._initialized):
            self._initialized = True
            return
        if value == _CKR_CRYPTOKI_ALREADY_INITIALIZED:
            raise BackendConfigError(
                f"something else in this process uses the module {self.path}, without the locks that threads need; remove it"
            )
        if value in _NO_THREADS:
            raise BackendConfigError(f"the module {self.path} cannot be used from several threads; use another")
        if value == _CKR_ARGUMENTS_BAD:
            raise BackendConfigError(
                f"the module {self.path} refuses to be initialised as it is; "
                "NSS's wants library_parameters, other modules must have none"
            )
        raise BackendUnavailableError(f"the module {self.path} does not initialise (return value {value:#x})")


class _Mapper(AttributeMapper):
    """Reads the labels and key types that others gave to their objects without failing at them."""

    def __init__(self) -> None:
        super().__init__()
        self.register_handler(Attribute.LABEL, str.encode, lambda value: value.decode(errors="replace"))
        pack, unpack = self.attribute_types[Attribute.MODULUS_BITS]
        self.register_handler(Attribute.KEY_TYPE, lambda value: pack(int(value)), lambda value: _key_type(unpack(value)))


def _key_type(value: int) -> int:
    try:
        return KeyType(value)
    except ValueError:  # vendors have their own
        return value


MAPPER = _Mapper()


def find(session: Any, template: Mapping[Attribute, Any]) -> list[Any]:
    """Return the objects that match, all read: a search that is left half done makes the session's next call fail.

    The library's own ``get_objects`` leaves its lock taken, and complains on standard error, when a search does not even begin.
    """
    search = _pkcs11.SearchIter(session, dict(template), 64)  # type: ignore[attr-defined]  # the stubs leave it out
    try:
        with search:
            return [found for batch in search for found in batch]
    except PKCS11Error:
        with suppress(PKCS11Error):
            search._finalize()
        raise


def read(thing: Any, attributes: tuple[Attribute, ...]) -> dict[Attribute, Any]:
    """Return those of the attributes that an object has."""
    try:
        return dict(thing.get_attributes(attributes))
    except (PKCS11Error, ValueError, struct.error):
        # Some tokens fail as a whole when one is missing.
        values = {}
        for attribute in attributes:
            with suppress(*_ABSENT):
                values[attribute] = thing[attribute]
        return values


def _load(path: str) -> Any:
    try:
        get_function_list = ctypes.CDLL(path).C_GetFunctionList
    except OSError as error:
        raise BackendConfigError(f"cannot load the module {path}; install it, or correct its path") from error
    except AttributeError as error:
        raise BackendConfigError(f"{path} is not a PKCS#11 module; correct its path") from error
    functions = ctypes.POINTER(_FunctionList)()
    get_function_list.restype = ctypes.c_ulong
    if get_function_list(ctypes.byref(functions)) != _CKR_OK:
        raise BackendConfigError(f"the module {path} does not start; look into its own configuration")
    return functions.contents
