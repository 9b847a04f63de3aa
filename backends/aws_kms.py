"""Private keys in AWS Key Management Service, one KMS key per version.

A handle is the id of a KMS key, or the ARN of one. The alias ``alias/{prefix}/{name}/v{version}`` makes a version unique and is
what is listed; nothing is ever signed by alias. ECDSA and RSA messages are hashed here, Ed25519 ones are sent whole.
See docs/backends/aws.md.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from typing import Any, ClassVar, NamedTuple, Self

from botocore.exceptions import BotoCoreError, ClientError
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_der_public_key
from pydantic import BaseModel

from backends._aws_client import RenewableCredentials, connect
from backends._aws_config import AwsKmsConfig
from backends._aws_errors import STALE_CREDENTIALS, WrongStateError, error_code, translate
from backends._aws_names import KEY_TAG, VERSION_TAG, alias_for, check_handle, parse_alias
from backends._aws_policy import policy_for
from backends.api import Algorithm, BackendContext, Capabilities, PublicKey, StoredKey
from backends.deadline import remaining
from backends.encoding import algorithm_fits, ecdsa_der_to_raw
from backends.errors import (
    BackendAccessError,
    BackendConfigError,
    BackendError,
    BackendIntegrityError,
    BackendUnavailableError,
    KeyExistsError,
    KeyNotFoundError,
    MessageSizeError,
    UnsupportedAlgorithmError,
)

_MAX_RAW = 4096  # bytes; Sign takes no longer message, and no empty one
_PAGE = 100  # aliases; KMS gives no more at a time
_DESCRIBERS = 8  # threads that ask for the states of keys
_SETTLING = 5.0  # seconds that a key which was just made may be unknown to parts of KMS
_ED25519_OCTETS = 64
_DYING = ("PendingDeletion", "PendingReplicaDeletion")
_log = logging.getLogger("keyd.backends.aws")


class _Kind(NamedTuple):
    """What KMS calls an algorithm. The key spec is None where the configuration has a say in it."""

    key_spec: str | None
    signing_algorithm: str
    hash: str | None


_KINDS = {
    Algorithm.ED25519: _Kind("ECC_NIST_EDWARDS25519", "ED25519_SHA_512", None),
    Algorithm.ES256: _Kind("ECC_NIST_P256", "ECDSA_SHA_256", "sha256"),
    Algorithm.ES384: _Kind("ECC_NIST_P384", "ECDSA_SHA_384", "sha384"),
    Algorithm.PS512: _Kind(None, "RSASSA_PSS_SHA_512", "sha512"),
    Algorithm.RS256: _Kind(None, "RSASSA_PKCS1_V1_5_SHA_256", "sha256"),
}
_USABLE_SPECS = {kind.key_spec for kind in _KINDS.values()} | {"RSA_2048", "RSA_3072", "RSA_4096"}


class AwsKmsBackend:
    """Private keys in AWS KMS."""

    Config: ClassVar[type[BaseModel]] = AwsKmsConfig

    def __init__(self, config: AwsKmsConfig, client: Any, credentials: RenewableCredentials) -> None:
        self._config = config
        self._client = client
        self._credentials = credentials
        raw = config.algorithms if config.message_type == "raw" else config.algorithms & {Algorithm.ED25519}
        self.capabilities = Capabilities(
            algorithms=config.algorithms,
            in_process=False,
            max_message=dict.fromkeys(raw, _MAX_RAW),
            min_message=dict.fromkeys(raw, 1),
        )
        # What the material behind a handle is for never changes.
        self._fitting: dict[str, frozenset[Algorithm]] = {}

    @classmethod
    def open(cls, config: AwsKmsConfig, context: BackendContext) -> Self:
        """Make a client, without a call to AWS.

        Raises:
            BackendConfigError: there is no region, or the SDK does not take the configuration or the shared AWS files.
        """
        try:
            return cls(config, *connect(config))
        except (BotoCoreError, ValueError) as error:
            raise BackendConfigError(
                f"the AWS SDK does not take the configuration of backend {context.name} ({type(error).__name__}); check "
                "region, endpoint_url and profile, the AWS_* environment variables and the shared AWS configuration files"
            ) from error

    @classmethod
    def policy(cls, config: AwsKmsConfig | None) -> str:
        """Return an IAM policy for the identity that keyd calls KMS with, as JSON."""
        config = config or AwsKmsConfig()
        return policy_for(config, sorted({_key_spec(algorithm, config) for algorithm in config.algorithms}))

    def create(self, name: str, version: int, algorithm: Algorithm) -> str:
        """Make a KMS key with tags and an alias and return its id. Raises as :meth:`backends.api.Backend.create`."""
        self._check_declared(algorithm)
        alias = alias_for(self._config.prefix, name, version)
        if self._behind(alias) is not None:  # to save a key from being made in vain; what counts is that the alias cannot be made
            raise KeyExistsError(f"{alias} is there already")
        tags = {KEY_TAG: name, VERSION_TAG: str(version), **self._config.tags}
        made = self._call(
            self._client.create_key,
            f"the key for {alias}",
            KeySpec=_key_spec(algorithm, self._config),
            KeyUsage="SIGN_VERIFY",
            Description=f"{_description(name, version)} {algorithm.value}",
            Tags=[{"TagKey": key, "TagValue": value} for key, value in tags.items()],
            # A key that needs not be told so is not, for emulators that do not know of it.
            **({"MultiRegion": True} if self._config.multi_region else {}),
        )
        handle = str(made["KeyMetadata"]["KeyId"])
        try:
            # Two keys cannot have one alias: of two that make the same version at once, the second learns of it here.
            _settled(lambda: self._call(self._client.create_alias, alias, AliasName=alias, TargetKeyId=handle))
        except BackendError as error:
            # A request that was sent again, because its answer was lost, finds the alias that it has made itself.
            behind = self._behind(alias) if isinstance(error, KeyExistsError) else None
            if behind is None or behind["KeyId"] != handle:
                self._discard(handle, alias)
                raise
        _settled(lambda: self.public_key(handle))
        return handle

    def list(self) -> Iterable[StoredKey]:
        """Return the keys with an alias under ``prefix`` or ``adopt_prefix`` that are not about to be deleted."""
        found: dict[str, StoredKey] = {}
        for alias, handle in self._aliases():
            named = parse_alias(self._config.prefix, alias)
            if named is not None:
                found[handle] = StoredKey(handle, *named)
            elif self._is_adoptable(alias):
                found.setdefault(handle, StoredKey(handle, None, None))
        with ThreadPoolExecutor(_DESCRIBERS, thread_name_prefix="keyd-aws-list") as pool:
            # Each thread needs a copy of the context, which holds the deadline, for itself.
            usable = [pool.submit(copy_context().run, self._is_usable, stored) for stored in found.values()]
            try:
                return [stored for stored, answer in zip(found.values(), usable, strict=True) if answer.result()]
            finally:
                for answer in usable:
                    answer.cancel()

    def find(self, name: str, version: int) -> str | None:
        """Return the id of the key with the alias of this version, unless it is about to be deleted."""
        alias = alias_for(self._config.prefix, name, version)
        key = self._behind(alias)
        if key is None or key.get("KeyState") in _DYING:
            return None
        if not str(key.get("Description", "")).startswith(_description(name, version)):
            raise BackendIntegrityError(
                f"{alias} leads to key {key['KeyId']}, whose description does not say that keyd made it for this version; "
                "remove the alias, or give the key its description back"
            )
        return str(key["KeyId"])

    def public_key(self, handle: str) -> PublicKey:
        """Return the public key. Raises as :meth:`sign`."""
        answer = self._key_call(self._client.get_public_key, handle)
        usage = answer.get("KeyUsage", "SIGN_VERIFY")
        try:
            public_key: PublicKey = load_der_public_key(answer["PublicKey"])  # type: ignore[assignment]  # what fits is one
        except (ValueError, UnsupportedAlgorithm) as error:
            raise UnsupportedAlgorithmError(f"key {handle} is not of a type that keyd uses") from error
        fitting = frozenset(algorithm for algorithm in Algorithm if algorithm_fits(algorithm, public_key))
        if usage != "SIGN_VERIFY" or not fitting:
            raise UnsupportedAlgorithmError(f"key {handle} is for {usage} and of a type that keyd does not sign with")
        self._fitting[handle] = fitting
        return public_key

    def sign(self, handle: str, algorithm: Algorithm, message: bytes) -> bytes:
        """Sign with this key.

        Raises:
            KeyNotFoundError: there is no such key, or it is about to be deleted.
            UnsupportedAlgorithmError: the key is not for this algorithm.
            MessageSizeError: the message would have to be sent whole, and is longer than 4096 bytes or empty.
            BackendAccessError: the key is disabled, or KMS refuses the credentials.
        """
        self._check_declared(algorithm)
        check_handle(handle)
        if handle not in self._fitting:
            self.public_key(handle)
        if algorithm not in self._fitting.get(handle, ()):
            raise UnsupportedAlgorithmError(f"key {handle} is not for {algorithm.value}")
        answer = self._key_call(
            self._client.sign, handle, SigningAlgorithm=_KINDS[algorithm].signing_algorithm, **self._to_sign(algorithm, message)
        )
        return _raw(answer["Signature"], algorithm, handle)

    def destroy(self, handle: str) -> None:
        """Have KMS delete the key after ``deletion_window_days``; from now on it does not sign. Its aliases go at once."""
        check_handle(handle)
        self._fitting.pop(handle, None)
        with suppress(KeyNotFoundError):
            aliases = [alias for alias, _ in self._aliases(KeyId=handle)]
            # Before the aliases: by them the next start finds a key whose destruction was interrupted.
            self._schedule_deletion(handle)
            for alias in aliases:
                if parse_alias(self._config.prefix, alias) is not None:
                    with suppress(KeyNotFoundError):
                        self._call(self._client.delete_alias, alias, AliasName=alias)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _check_declared(self, algorithm: Algorithm) -> None:
        if algorithm not in self._config.algorithms:
            raise UnsupportedAlgorithmError(f"{algorithm.value} is not among the algorithms of this AWS KMS backend")

    def _call(self, function: Callable[..., dict[str, Any]], what: str, **arguments: Any) -> dict[str, Any]:
        """Call KMS, again if the credentials were stale and others are there, and translate what it raises."""
        used = self._credentials.current
        try:
            try:
                answer = function(**arguments)
            except ClientError as error:
                if error_code(error) not in STALE_CREDENTIALS or not self._credentials.renew(used):
                    raise
                answer = function(**arguments)
        except (
            ClientError,
            BotoCoreError,
            OSError,
            RuntimeError,
            ValueError,
            KeyError,
        ) as error:  # the last two: no answer of KMS's
            raise translate(error, what) from error
        self._credentials.confirm()
        return answer

    def _key_call(self, function: Callable[..., dict[str, Any]], handle: str, **arguments: Any) -> dict[str, Any]:
        """Call KMS with a key, and forget what is known of it when it turns out to be gone."""
        check_handle(handle)
        try:
            try:
                return self._call(function, f"key {handle}", KeyId=handle, **arguments)
            except WrongStateError as error:
                raise self._explained(handle, error) from error
        except KeyNotFoundError:
            self._fitting.pop(handle, None)
            raise

    def _explained(self, handle: str, error: WrongStateError) -> BackendError:
        state = self._state(handle)
        if state in _DYING:
            return KeyNotFoundError(
                f"key {handle} is about to be deleted ({state}); within its waiting period KMS can cancel that"
            )
        if state in ("Disabled", "PendingImport"):
            return BackendAccessError(f"key {handle} does not work in its state {state}; enable it or import its material in KMS")
        return BackendUnavailableError(f"{error} ({state})")

    def _state(self, handle: str) -> str:
        return str(self._describe(handle).get("KeyState"))

    def _describe(self, key: str) -> dict[str, Any]:
        answer = self._call(self._client.describe_key, f"key {key}", KeyId=key)
        metadata: dict[str, Any] = answer["KeyMetadata"]
        return metadata

    def _behind(self, alias: str) -> dict[str, Any] | None:
        """Return what KMS says of the key behind an alias; None if there is no such alias."""
        try:
            return self._describe(alias)
        except KeyNotFoundError:
            return None
        except BackendAccessError:
            # A policy by tags allows nothing without a key, so this may only mean that there is none.
            if any(alias == listed for listed, _ in self._aliases()):
                raise
            return None

    def _discard(self, handle: str, alias: str) -> None:
        try:
            _settled(lambda: self._schedule_deletion(handle))
        except BackendError as error:
            _log.warning(
                "key %s was made for %s but could not be completed; schedule its deletion in KMS: %s", handle, alias, error
            )

    def _schedule_deletion(self, handle: str) -> None:
        try:
            self._call(
                self._client.schedule_key_deletion,
                f"key {handle}",
                KeyId=handle,
                PendingWindowInDays=self._config.deletion_window_days,
            )
        except WrongStateError:
            if self._state(handle) not in _DYING:
                raise

    def _aliases(self, **arguments: str) -> Sequence[tuple[str, str]]:
        found = []
        page: dict[str, Any] = {"Truncated": True}
        while page.get("Truncated"):
            marker = {"Marker": page["NextMarker"]} if "NextMarker" in page else {}
            what = f"key {arguments['KeyId']}" if arguments else "the aliases"
            page = self._call(self._client.list_aliases, what, Limit=_PAGE, **arguments, **marker)
            found += [(alias["AliasName"], alias["TargetKeyId"]) for alias in page["Aliases"] if "TargetKeyId" in alias]
        return found

    def _is_adoptable(self, alias: str) -> bool:
        return self._config.adopt_prefix is not None and alias.startswith(f"alias/{self._config.adopt_prefix}/")

    def _is_usable(self, stored: StoredKey) -> bool:
        try:
            key = self._describe(stored.handle)
        except KeyNotFoundError:
            return False
        except BackendAccessError:
            if stored.name is None:  # keyd may not use it, then
                return False
            raise
        if key.get("KeyState") in _DYING:
            return False
        return stored.name is not None or (key.get("KeyUsage") == "SIGN_VERIFY" and key.get("KeySpec") in _USABLE_SPECS)

    def _to_sign(self, algorithm: Algorithm, message: bytes) -> dict[str, Any]:
        hash_name = _KINDS[algorithm].hash
        if hash_name is not None and self._config.message_type == "digest":
            return {"Message": hashlib.new(hash_name, message).digest(), "MessageType": "DIGEST"}
        if not 0 < len(message) <= _MAX_RAW:
            raise MessageSizeError(
                f"AWS KMS signs 1 to {_MAX_RAW} bytes with {algorithm.value}, not {len(message)}; sign less, or use another algorithm"
            )
        return {"Message": message, "MessageType": "RAW"}


def _description(name: str, version: int) -> str:
    return f"keyd {name} version {version},"


def _key_spec(algorithm: Algorithm, config: AwsKmsConfig) -> str:
    return _KINDS[algorithm].key_spec or f"RSA_{config.rsa_bits}"


def _settled(call: Callable[[], object]) -> None:
    """Make a call about something that was just made, again for as long as KMS may not know of it everywhere."""
    end, pause = time.monotonic() + remaining(_SETTLING), 0.05
    while True:
        try:
            call()
        except KeyNotFoundError as error:
            if time.monotonic() + pause >= end:
                raise BackendUnavailableError(f"KMS does not know of what it just made: {error}") from error
        else:
            return
        time.sleep(pause)
        pause = min(2 * pause, 1.0)


def _raw(signature: bytes, algorithm: Algorithm, handle: str) -> bytes:
    """Return the signature as RFC 9421 has it: KMS encodes ECDSA as DER, everything else as it is there."""
    try:
        if algorithm in (Algorithm.ES256, Algorithm.ES384):
            return ecdsa_der_to_raw(signature, algorithm)
        if algorithm is Algorithm.ED25519 and len(signature) != _ED25519_OCTETS:
            raise ValueError(f"{len(signature)} octets")
    except ValueError as error:
        raise BackendError(f"KMS returned something else than an {algorithm.value} signature by key {handle}") from error
    return signature
