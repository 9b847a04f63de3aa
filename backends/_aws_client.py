"""A KMS client of the AWS SDK whose retries end with the caller's deadline, and whose credentials can be loaded anew."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import boto3
from botocore.config import Config
from botocore.credentials import AssumeRoleCredentialFetcher, CredentialResolver, Credentials, DeferredRefreshableCredentials
from botocore.exceptions import CapacityNotAvailableError, ConnectTimeoutError, EndpointConnectionError, NoCredentialsError
from botocore.retries import adaptive, bucket, standard, throttling
from botocore.session import Session

from backends._aws_config import AwsKmsConfig
from backends._aws_errors import THROTTLING
from backends.deadline import remaining
from backends.errors import BackendThrottledError, BackendUnavailableError

_NOT_SENT = (EndpointConnectionError, ConnectTimeoutError)
_CONNECTIONS = 64  # kept open at most; they are opened when they are needed
_PATIENCE = 60.0  # seconds, for callers without a deadline
_RENEWAL_INTERVAL = 5.0  # seconds; credentials that are refused from the start are not loaded again for every call


class RenewableCredentials(Credentials):  # type: ignore[misc]  # the SDK has no types
    """Credentials from the SDK's chain, loaded when they are first needed and again when AWS says that they are stale.

    By itself the SDK replaces only credentials that came with an expiry time, and no others as long as the process lives.
    """

    def __init__(self, load: Callable[[], Credentials | None]) -> None:
        super().__init__(access_key="", secret_key="", method="keyd")
        self._load = load
        self._lock = threading.Lock()
        self._tried_at = float("-inf")
        self._proven = False
        #: Those in use now.
        self.current: Credentials | None = None

    def get_frozen_credentials(self) -> Any:
        """Return what the SDK signs one request with."""
        if self.current is None:
            self.renew(None)
            if self.current is None:
                raise NoCredentialsError
        return self.current.get_frozen_credentials()

    def confirm(self) -> None:
        """Take note that AWS accepts those in use now, so that they are replaced at once when it no longer does."""
        self._proven = True

    def renew(self, stale: Credentials | None) -> bool:
        """Replace credentials that are stale, unless another thread did so. False: they have just been loaded, to no avail."""
        if not self._lock.acquire(timeout=remaining(_PATIENCE)):
            raise BackendUnavailableError("no AWS credentials yet, they are still being loaded; check where they come from")
        try:
            if self.current is not stale:
                return True
            if not self._proven and time.monotonic() < self._tried_at + _RENEWAL_INTERVAL:
                return False
            self._proven = False
            try:
                self.current = self._load() or self.current
            finally:
                self._tried_at = time.monotonic()
            return self.current is not stale
        finally:
            self._lock.release()


def connect(config: AwsKmsConfig) -> tuple[Any, RenewableCredentials]:
    """Return a client, which many threads may use, and its credentials. Contacts nobody.

    Raises:
        botocore.exceptions.BotoCoreError: the configuration does not do, here or in the shared AWS files.
        ValueError: nor does the endpoint.
    """
    credentials = RenewableCredentials(lambda: _load_credentials(config))
    core = Session(profile=config.profile)
    core.register_component("credential_provider", CredentialResolver([_Given(credentials)]))
    session = boto3.Session(botocore_session=core, region_name=config.region)
    client = session.client("kms", endpoint_url=config.endpoint_url, config=_sdk_config(config))
    _bound_by_deadline(client, config)
    if config.retry_mode == "adaptive":
        _slow_down_when_throttled(client)
    return client, credentials


class _Given:
    """A credential provider, as the SDK's resolver wants them, that has credentials already."""

    METHOD = CANONICAL_NAME = "keyd"

    def __init__(self, credentials: Credentials) -> None:
        self.load = lambda: credentials


def _sdk_config(config: AwsKmsConfig) -> Config:
    return Config(
        connect_timeout=config.connect_timeout,
        read_timeout=config.read_timeout,
        max_pool_connections=_CONNECTIONS,
        retries={"mode": "standard", "total_max_attempts": config.max_attempts},
        # None leaves it to the environment and the profile.
        use_fips_endpoint=config.use_fips or None,
        user_agent_extra="keyd",
    )


def _load_credentials(config: AwsKmsConfig) -> Credentials | None:
    """Go through the SDK's chain from the start, reading files again that it has read before."""
    session = Session(profile=config.profile)
    if config.region is not None:
        session.set_config_variable("region", config.region)
    # For the clients that the SDK makes on its way, such as the one for web identity.
    session.set_default_client_config(_sdk_config(config))
    source = session.get_credentials()
    if source is None or config.role_arn is None:
        return source

    def sts(service: str, **arguments: Any) -> Any:
        client = session.create_client(service, **arguments)
        _bound_by_deadline(client, config)
        return client

    arguments = {"RoleSessionName": config.role_session_name}
    if config.external_id is not None:
        arguments["ExternalId"] = config.external_id
    fetcher = AssumeRoleCredentialFetcher(sts, source, config.role_arn, extra_args=arguments)
    return DeferredRefreshableCredentials(fetcher.fetch_credentials, "assume-role")


def _bound_by_deadline(client: Any, config: AwsKmsConfig) -> None:
    """Have no request start after the caller's deadline, none be waited for beyond it, and no pause end after it."""

    def cap(request: Any, **_: Any) -> None:
        request.context["read_timeout"] = remaining(config.read_timeout)

    service = client.meta.service_model.service_id.hyphenize()
    client.meta.events.register_last(f"before-send.{service}", cap)  # after the adaptive mode has waited
    client.meta.events.register_first(f"needs-retry.{service}", _veto)


def _veto(
    attempts: int, operation: Any, response: tuple[Any, dict[str, Any]] | None, caught_exception: Exception | None, **_: Any
) -> bool | None:
    """Answer False, which ends the retries, or None, which leaves it to the SDK whether and when there is another."""
    http, parsed = response or (None, {})
    throttled = parsed.get("Error", {}).get("Code") in THROTTLING
    if operation.name == "CreateKey" and not throttled and not isinstance(caught_exception, _NOT_SENT):
        return False  # it may have been done although no answer came, and would be done twice
    asked = int(value) / 1000 if http is not None and (value := http.headers.get("x-amz-retry-after", "0")).isdigit() else 0.0
    longest = (1.0 if throttled else 0.05) * 2.0 ** (attempts - 1) + min(asked, 5.0)  # the SDK takes a random part of it
    try:
        return None if longest < remaining(_PATIENCE) else False
    except BackendUnavailableError:
        return False


class _Tokens(bucket.TokenBucket):  # type: ignore[misc]  # the SDK has no types
    """The SDK's token bucket, which else would keep a thread for as long as there is no token."""

    def acquire(self, amount: int = 1, block: bool = True) -> bool:
        """Take a token, waiting for it until the caller's deadline at most."""
        end = time.monotonic() + remaining(_PATIENCE)
        while True:
            try:
                return bool(super().acquire(amount, block=False))
            except CapacityNotAvailableError as error:
                pause = max(0.005, (amount - self.available_capacity) / self.max_rate)
                if time.monotonic() + pause >= end:
                    raise BackendThrottledError(
                        "KMS asked for fewer calls, and there are too many; raise the request quota or sign less"
                    ) from error
            time.sleep(pause)


def _slow_down_when_throttled(client: Any) -> None:
    """Do what the SDK's retry mode ``adaptive`` does, but within the caller's deadline."""
    clock = bucket.Clock()
    limiter = adaptive.ClientRateLimiter(
        rate_adjustor=throttling.CubicCalculator(starting_max_rate=0, start_time=clock.current_time()),
        rate_clocker=adaptive.RateClocker(clock),
        token_bucket=_Tokens(max_rate=1, clock=clock),
        throttling_detector=standard.ThrottlingErrorDetector(retry_event_adapter=standard.RetryEventAdapter()),
        clock=clock,
    )
    client.meta.events.register("before-send.kms", limiter.on_sending_request)
    client.meta.events.register("needs-retry.kms", limiter.on_receiving_response)
