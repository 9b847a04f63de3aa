"""One PKCS#11 token while its module stays open: its sessions, and what was learnt of its keys."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

from pkcs11 import Attribute, Mechanism, MechanismFlag, ObjectClass
from pkcs11 import exceptions as p11
from pkcs11.constants import DEFAULT

from backends import deadline
from backends._pkcs11_errors import OBJECT_GONE, StoreDoubtError
from backends._pkcs11_keys import (
    PUBLIC_ATTRIBUTES,
    ForbiddenKeyError,
    Generator,
    Signer,
    UnusableKeyError,
    public_key_of,
    signers,
)
from backends._pkcs11_login import log_in
from backends._pkcs11_module import MAPPER, PATIENCE, Module, find, read
from backends._pkcs11_uri import Pkcs11Uri
from backends.api import Algorithm, PublicKey
from backends.encoding import algorithm_fits
from backends.errors import BackendAccessError, BackendConfigError, BackendIntegrityError, BackendUnavailableError
from backends.secrets import SecretRef

_T = TypeVar("_T")
_TRIES = 5  # while other processes make and destroy objects, about one search in three fails
_LOOKS = 3
_PAUSE = 0.02  # seconds between two looks
_PRIVATE_ATTRIBUTES = (
    Attribute.ID,
    Attribute.LABEL,
    Attribute.KEY_TYPE,
    Attribute.SIGN,
    Attribute.ALWAYS_AUTHENTICATE,
)
_PRIVATE_TEMPLATE = {Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False}
# tpm2-pkcs11 fails on attributes that others take as given; left out, they are what they should be.
_PUBLIC_TEMPLATE = dict.fromkeys((Attribute.VERIFY, Attribute.ENCRYPT, Attribute.WRAP), DEFAULT)
_SIGNATURE_ROOM = 1024  # of octets: the longest signature is that of RSA, 8192 bits
_log = logging.getLogger("keyd.backends.pkcs11")


@dataclass(frozen=True, slots=True, eq=False)
class Facts:
    """What does not change of a key pair. Compared by identity: another learning makes others."""

    public_key: PublicKey
    #: How the token signs with it, for each algorithm that it fits.
    signers: Mapping[Algorithm, Signer]


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A usable key pair in a listing."""

    id: bytes
    label: object


@dataclass(slots=True, eq=False)
class Worker:
    """A session that makes one signature at a time, with its own handles of the keys that it has used."""

    session: Any
    lock: threading.Lock
    keys: dict[str, tuple[Any, Facts]] = field(default_factory=dict)


class Connection:
    """A token that was found and logged in to. All methods but :meth:`sign` are called under the module's mutex."""

    def __init__(self, module: Module, token: Any, session: Any) -> None:
        self.generation = module.generation
        self.description = f"the token {token.label!r}"
        #: Set when signing failed in a way that only opening the module again may mend.
        self.suspect = False
        self.facts: dict[str, Facts] = {}
        # The handles of the keys that were seen here and not destroyed by us.
        self._known: set[str] = set()
        #: Last in, first out, so that few sessions do the work while there is little of it. Appending and popping are atomic.
        self.idle: deque[Worker] = deque()
        self._module = module
        self._token = token
        self._session = session
        self._logged: set[bytes] = set()
        self.mechanisms = token.slot.get_mechanisms()
        #: How the token signs, for each algorithm that it is used for.
        self.signers: Mapping[Algorithm, Signer] = signers(self.mechanisms, self._ecdsa_bits())
        # Whether a search that finds nothing at all can be right.
        self._populated = bool(self._private())

    @classmethod
    def open(cls, module: Module, uri: Pkcs11Uri, pin: SecretRef) -> Self:
        """Find the token and log in.

        Raises:
            StoreDoubtError: the token is not there.
            BackendConfigError: there are several such tokens.
            BackendError: as :func:`backends._pkcs11_login.log_in`.
            pkcs11.exceptions.PKCS11Error: anything else.
        """
        token = _token(module, uri)
        return cls(module, token, log_in(module, token, pin))

    def learn(self, handle: str, key_id: bytes) -> Facts | None:
        """Read what a key pair is; None if there is provably none.

        Raises:
            StoreDoubtError: that cannot be told.
            BackendError: keyd cannot use it.
        """
        publics, privates = self._pair(key_id)
        if not privates:
            self.prove()
            if handle in self._known:
                raise StoreDoubtError(f"{self.description} does not show {handle} any more")
            return None
        if len(privates) > 1 or len(publics) > 1:
            raise BackendIntegrityError(f"several keys on {self.description} have the CKA_ID of {handle}; give each its own")
        if not publics:
            raise BackendIntegrityError(f"{handle} on {self.description} has no public object, which keyd needs; store it there")
        public, private = read(publics[0], PUBLIC_ATTRIBUTES), read(privates[0], _PRIVATE_ATTRIBUTES)
        try:
            public_key = _checked(private, public)
        except UnusableKeyError as error:
            self.prove()
            kind = BackendAccessError if isinstance(error, ForbiddenKeyError) else BackendIntegrityError
            raise kind(f"keyd cannot use {handle} on {self.description}: {error}") from error
        fitting = {algorithm: signer for algorithm, signer in self.signers.items() if algorithm_fits(algorithm, public_key)}
        facts = Facts(public_key, fitting)
        self.facts[handle] = facts
        self._known.add(handle)
        return facts

    def prove(self) -> None:
        """Make sure that a search which found nothing is to be believed.

        A token that was taken away answers searches with nothing instead of failing, and goes on so when it is back, until its
        module is opened anew. It is believed if it shows any private key, or showed none when it was opened and is still there.

        Raises:
            StoreDoubtError: it is not.
        """
        if self._private():
            self._populated = True
            return
        if self._populated:
            raise StoreDoubtError(f"{self.description} shows no keys any more")
        if self._token.slot.get_token().serial != self._token.serial:
            raise StoreDoubtError(f"{self.description} was replaced by another")

    def labelled(self, label: str) -> bytes | None:
        """Return the CKA_ID of the private key with this label; None if there is provably none.

        Raises:
            BackendIntegrityError: there are several, or it has none.
        """
        template = {Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.LABEL: label}
        found = _again(lambda: [read(key, _PRIVATE_ATTRIBUTES) for key in self._find(template)])
        if not found:
            self.prove()
            return None
        key_id = bytes(found[0].get(Attribute.ID) or b"")
        if len(found) > 1 or not key_id:
            raise BackendIntegrityError(
                f"{self.description} has {len(found)} private keys labelled {label!r}, or one without a CKA_ID; mend that by hand"
            )
        return key_id

    def usable(self) -> list[KeyPair]:
        """Return the key pairs that keyd may use. Raises StoreDoubtError if the token cannot tell."""
        publics, privates = _again(self._all)
        if not privates:
            self.prove()
        counts = Counter(private.get(Attribute.ID, b"") for private in privates)
        by_id = {public.get(Attribute.ID, b""): public for public in publics}
        twice = {key_id for key_id, count in Counter(public.get(Attribute.ID, b"") for public in publics).items() if count > 1}
        pairs = []
        for private in privates:
            key_id, label = private.get(Attribute.ID, b""), private.get(Attribute.LABEL)
            try:
                if not key_id:
                    raise UnusableKeyError("it has no CKA_ID")
                if counts[key_id] > 1 or key_id in twice:
                    raise UnusableKeyError("another key has the same CKA_ID")
                if key_id not in by_id:
                    raise UnusableKeyError("it has no public object with the same CKA_ID")
                _checked(private, by_id[key_id])
            except UnusableKeyError as reason:
                self._log_once(key_id, label, reason)
            else:
                pairs.append(KeyPair(key_id, label))
        return pairs

    def generate(self, generator: Generator, key_id: bytes, label: str, rsa_bits: int) -> None:
        """Make a key pair, and make sure that its private half cannot leave the token.

        Raises:
            BackendIntegrityError: the token did not do as it was told; the pair is destroyed.
            pkcs11.exceptions.PKCS11Error: it could not.
        """
        template = {
            "id": key_id,
            "label": label,
            "store": True,
            "capabilities": MechanismFlag.SIGN | MechanismFlag.VERIFY,
            "mechanism": generator.mechanism,
            "public_template": _PUBLIC_TEMPLATE,
            "private_template": _PRIVATE_TEMPLATE,
        }
        if generator.ec_params is None:
            public, private = self._session.generate_keypair(generator.key_type, rsa_bits, **template)
        else:
            curve = {Attribute.EC_PARAMS: generator.ec_params}
            parameters = self._session.create_domain_parameters(generator.key_type, curve, local=True)
            public, private = parameters.generate_keypair(**template)
        self._populated = True
        wrong = _disobeyed(private, {**_PRIVATE_TEMPLATE, Attribute.ID: key_id, Attribute.LABEL: label})
        if wrong:
            private.destroy()
            public.destroy()
            raise BackendIntegrityError(
                f"{self.description} makes keys with another {' and '.join(wrong)} than it was told; "
                "the new key is destroyed, use another token"
            )

    def destroy(self, handle: str, key_id: bytes) -> None:
        """Destroy a key pair, or what is left of it. Raises StoreDoubtError if the token cannot tell whether there is one."""
        privates = self._find({Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.ID: key_id})
        if len(privates) > 1:
            raise BackendIntegrityError(
                f"several private keys on {self.description} have the CKA_ID of {handle}; destroy it by hand"
            )
        if not privates:
            self.prove()
        publics = self._find({Attribute.CLASS: ObjectClass.PUBLIC_KEY, Attribute.ID: key_id})
        vanished = False
        with self._module.quiet():
            self.facts.pop(handle, None)
            self._known.discard(handle)
            # The private half first: a public one that is left over signs nothing.
            for found in (*privates, *publics):
                try:
                    found.destroy()
                except OBJECT_GONE:
                    vanished = True
        left = self._private()
        if vanished and not left:
            raise StoreDoubtError(f"{self.description} shows no keys any more")
        self._populated = bool(left)

    def worker_for(self, handle: str, key_id: bytes, facts: Facts) -> Worker | None:
        """Return a worker that has the private key at hand; None if it is gone again."""
        try:
            worker = self.idle.pop()
        except IndexError:
            session = self._token.open(attribute_mapper=MAPPER)  # is logged in, as the token is
            worker = Worker(session, self._module.reader())
        found = self._find({Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.ID: key_id}, worker.session)
        if len(found) != 1:
            self.idle.append(worker)
            self.facts.pop(handle, None)
            return None
        worker.keys[handle] = (found[0], facts)
        return worker

    def ready_worker(self, handle: str) -> Worker | None:
        """Return a worker that has used this key before, if there is one at once. Needs no mutex."""
        try:
            worker = self.idle.pop()
        except IndexError:
            return None
        _, facts = worker.keys.get(handle, (None, None))
        if facts is not None and facts is self.facts.get(handle):
            return worker
        self.idle.append(worker)
        return None

    def sign(self, worker: Worker, handle: str, signer: Signer, message: bytes) -> bytes | None:
        """Sign with a worker that is nobody else's; None if what it has at hand is out of date. Needs no mutex.

        Raises:
            pkcs11.exceptions.PKCS11Error: the token did not.
            BackendUnavailableError: the module was being opened again until the deadline.
        """
        octets = signer.prepare(message)
        if not worker.lock.acquire(blocking=False) and not worker.lock.acquire(timeout=deadline.remaining(PATIENCE)):
            raise BackendUnavailableError(f"the module of {self.description} is being opened again")
        try:
            key, facts = worker.keys[handle]
            # Tokens may give the handle of a destroyed object to another.
            if self.generation != self._module.generation or facts is not self.facts.get(handle):
                return None
            signature: bytes = key.sign(
                octets, mechanism=signer.mechanism, mechanism_param=signer.param, buffer_size=_SIGNATURE_ROOM
            )
            return signature
        finally:
            worker.lock.release()

    def close(self) -> None:
        """Close the workers' sessions. The login stays: other backends may use it."""
        while self.idle and self.generation == self._module.generation:
            self.idle.pop().session.close()

    def _private(self) -> list[Any]:
        return self._find({Attribute.CLASS: ObjectClass.PRIVATE_KEY})

    def _find(self, template: dict[Attribute, Any], session: Any = None) -> list[Any]:
        return _again(lambda: find(session or self._session, template))

    def _pair(self, key_id: bytes) -> tuple[list[Any], list[Any]]:
        """Return the public and the private keys with this CKA_ID; one of each, as a rule.

        The public half comes first: a token that goes away meanwhile does not look like one with half a pair then. Half a
        pair, or more than one, is looked at again: SoftHSM shows too little or too much for a moment when another process makes and
        destroys keys.
        """
        for _ in range(_LOOKS):
            publics = self._find({Attribute.CLASS: ObjectClass.PUBLIC_KEY, Attribute.ID: key_id})
            privates = self._find({Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.ID: key_id})
            if len(publics) == len(privates) < 2:
                break
            time.sleep(_PAUSE)
        return publics, privates

    def _all(self) -> tuple[list[dict[Attribute, Any]], list[dict[Attribute, Any]]]:
        """Return what there is of public and of private keys, in the order of :meth:`_pair`."""
        publics = [read(found, PUBLIC_ATTRIBUTES) for found in self._find({Attribute.CLASS: ObjectClass.PUBLIC_KEY})]
        return publics, [read(found, _PRIVATE_ATTRIBUTES) for found in self._private()]

    def _ecdsa_bits(self) -> range:
        if Mechanism.ECDSA not in self.mechanisms:
            return range(0)
        info = self._token.slot.get_mechanism_info(Mechanism.ECDSA)
        # Some tokens leave a size out, as 0.
        return range(info.min_key_length or 0, (info.max_key_length or 521) + 1)

    def _log_once(self, key_id: bytes, label: object, reason: Exception) -> None:
        if key_id not in self._logged:
            self._logged.add(key_id)
            _log.info(
                "the private key with CKA_ID %s and label %r on %s is left out: %s", key_id.hex(), label, self.description, reason
            )


def _again(work: Callable[[], _T]) -> _T:
    """Do this, and again if another process destroyed an object between its being found and its being read."""
    for _ in range(_TRIES - 1):
        with suppress(*OBJECT_GONE, p11.AttributeValueInvalid):
            return work()
    return work()


def _disobeyed(made: Any, asked: Mapping[Attribute, Any]) -> list[str]:
    """Return the names of the attributes that a new object has otherwise than asked, after a second look as in ``_pair``."""
    wrong: list[str] = []
    for _ in range(_LOOKS):
        kept = read(made, tuple(asked))
        wrong = sorted(attribute.name for attribute, value in asked.items() if kept.get(attribute) != value)
        if not wrong:
            break
        time.sleep(_PAUSE)
    return wrong


def _token(module: Module, uri: Pkcs11Uri) -> Any:
    found, failure = [], None
    for slot in module.library.get_slots():
        try:
            token = slot.get_token()
        except (p11.TokenNotPresent, p11.TokenNotRecognised):
            continue
        except p11.PKCS11Error as error:
            failure = error  # one bad reader must not hide the others
            continue
        wanted = {"label": uri.token, "manufacturer_id": uri.manufacturer, "model": uri.model}
        names_fit = all(value is None or getattr(token, name) == value for name, value in wanted.items())
        if names_fit and (uri.serial is None or token.serial == uri.serial.encode()):
            found.append(token)
    if len(found) > 1:
        raise BackendConfigError(f"there are {len(found)} tokens {uri.describe()}; name one by its serial")
    if not found:
        raise StoreDoubtError(f"there is no token {uri.describe()} in the module {module.path}") from failure
    return found[0]


def _checked(private: dict[Attribute, Any], public: dict[Attribute, Any]) -> PublicKey:
    """Return the public key of a pair that can sign. Raises UnusableKeyError."""
    if not private.get(Attribute.SIGN):
        raise ForbiddenKeyError("its CKA_SIGN is not true")
    if private.get(Attribute.ALWAYS_AUTHENTICATE):
        raise ForbiddenKeyError("it wants the PIN for every signature")
    if private.get(Attribute.KEY_TYPE) != public.get(Attribute.KEY_TYPE):
        raise UnusableKeyError("the public object with the same CKA_ID is of another type")
    return public_key_of(public)
