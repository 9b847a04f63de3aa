"""KeyService: what operators call."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import islice

from backends.api import Algorithm
from keyd.core import material, verifiers
from keyd.core.errors import InvalidArgumentError
from keyd.core.guard import Guard
from keyd.core.keyring import Change, Keyring
from keyd.core.model import KidFormat
from keyd.core.planner import Step, StepKind, plan_all
from keyd.core.rotator import Rotator
from keyd.core.snapshot import KeyView
from keyd.core.timeline import LifecyclePolicy
from keyd.service import convert
from keyd.service.call import Call
from keyd.v1 import key_service_pb2 as pb
from keyd.v1 import types_pb2

MAX_PAGE = 1000
_AT_ONCE = 20  # keys that are told of in one go
_LOOKED_AT = 500  # names that are held against the caller's grants in one go
_HORIZON, _LONGEST_HORIZON = 30 * 86400.0, 10 * 366 * 86400.0


@dataclass(slots=True)
class Defaults:
    """What a new key is where its spec does not say; replaced on reload."""

    backend: str
    algorithm: Algorithm
    profile: str
    kid_format: KidFormat
    lifecycle: LifecyclePolicy


class KeyService:
    """Makes keys and moves them through their lifecycle."""

    def __init__(self, keyring: Keyring, defaults: Defaults, guard: Guard, rotator: Rotator) -> None:
        self._keyring = keyring
        self._defaults = defaults
        self._guard = guard
        self._rotator = rotator

    async def create_key(self, request: pb.CreateKeyRequest, call: Call) -> pb.CreateKeyResponse:
        """Make a key and its first version."""
        change = await self._keyring.create(convert.new_key(request.spec, self._defaults, self._keyring.clock.now()))
        return pb.CreateKeyResponse(key=self._key(change), warnings=[*change.warnings, *self._advice(change.key)])

    async def import_key(self, request: pb.ImportKeyRequest, call: Call) -> pb.ImportKeyResponse:
        """Make a key from private material."""
        field = request.WhichOneof("material")
        if field is None:
            raise InvalidArgumentError("set one of pkcs8_pem and private_jwk")
        asked = convert.asked_algorithm(request.spec)
        load = material.from_pkcs8_pem if field == "pkcs8_pem" else material.from_jwk
        private_key, algorithm = load(getattr(request, field), asked)
        key = convert.new_key(request.spec, self._defaults, self._keyring.clock.now(), algorithm=algorithm, known=True)
        change = await self._keyring.import_key(key, private_key, _kid(request.kid))
        return pb.ImportKeyResponse(key=self._key(change), warnings=[*change.warnings, *self._advice(change.key)])

    async def adopt_key(self, request: pb.AdoptKeyRequest, call: Call) -> pb.AdoptKeyResponse:
        """Make a key from a key pair that its backend holds already."""
        if not request.handle:
            raise InvalidArgumentError("set handle; `keyd backend keys NAME` shows those that there are")
        runner = self._keyring.backend(request.spec.backend or self._defaults.backend)
        public_key = await runner.call(runner.backend.public_key, request.handle)
        algorithm = material.algorithm_of(public_key, convert.asked_algorithm(request.spec))
        key = convert.new_key(request.spec, self._defaults, self._keyring.clock.now(), algorithm=algorithm, known=True)
        change = await self._keyring.adopt(key, request.handle, _kid(request.kid))
        return pb.AdoptKeyResponse(key=self._key(change), warnings=[*change.warnings, *self._advice(change.key)])

    async def list_keys(self, request: pb.ListKeysRequest, call: Call) -> pb.ListKeysResponse:
        """List the keys for which the caller has a grant, by name; the page token is the last name of the page before."""
        if not 0 <= request.page_size <= MAX_PAGE:
            raise InvalidArgumentError(f"page_size is 0 to {MAX_PAGE}")
        now, size = self._keyring.clock.now(), request.page_size or MAX_PAGE
        rights = self._guard.policy.rights(call.principal)
        keys = self._keyring.snapshot.keys
        names: list[str] = []
        for number, name in enumerate(keys.after(request.page_token), 1):
            if rights.know(name):
                names.append(name)
                if len(names) > size:
                    break
            if number % _LOOKED_AT == 0:
                await asyncio.sleep(0)
        token = names[size - 1] if len(names) > size else ""
        page = []
        for number, name in enumerate(names[:size], 1):
            page.append(convert.key(keys[name], now))
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)  # others sign meanwhile
        return pb.ListKeysResponse(keys=page, next_page_token=token)

    async def get_key(self, request: pb.KeyServiceGetKeyRequest, call: Call) -> pb.KeyServiceGetKeyResponse:
        """Return one key with all its versions."""
        view = self._keyring.snapshot.get(request.name)
        return pb.KeyServiceGetKeyResponse(key=convert.key(view, self._keyring.clock.now()))

    async def rotate_key(self, request: pb.RotateKeyRequest, call: Call) -> pb.RotateKeyResponse:
        """Make the next version of a key."""
        change = await self._keyring.rotate(request.name, at_once=request.now)
        return pb.RotateKeyResponse(key=self._key(change), version=change.version.version, warnings=change.warnings)

    async def update_key(self, request: pb.UpdateKeyRequest, call: Call) -> pb.UpdateKeyResponse:
        """Change the lifecycle periods of a key."""
        old = self._keyring.snapshot.get(request.name).key.lifecycle
        view = await self._keyring.set_lifecycle(request.name, convert.lifecycle(request.lifecycle, old))
        return pb.UpdateKeyResponse(key=convert.key(view, self._keyring.clock.now()), warnings=self._advice(view))

    async def rollback_key(self, request: pb.RollbackKeyRequest, call: Call) -> pb.RollbackKeyResponse:
        """Make the version before the active one active again."""
        change = await self._keyring.roll_back(request.name)
        return pb.RollbackKeyResponse(key=self._key(change), version=change.version.version, warnings=change.warnings)

    async def pause_key(self, request: pb.PauseKeyRequest, call: Call) -> pb.PauseKeyResponse:
        """Hold the rotation of a key."""
        view = await self._keyring.set_paused(request.name, True)
        return pb.PauseKeyResponse(key=convert.key(view, self._keyring.clock.now()))

    async def resume_key(self, request: pb.ResumeKeyRequest, call: Call) -> pb.ResumeKeyResponse:
        """Let a key rotate again."""
        view = await self._keyring.set_paused(request.name, False)
        return pb.ResumeKeyResponse(key=convert.key(view, self._keyring.clock.now()))

    async def plan_rotations(self, request: pb.PlanRotationsRequest, call: Call) -> pb.PlanRotationsResponse:
        """Tell what keyd will do by itself, and what the clock will do, with the keys for which the caller has a grant."""
        horizon = convert.seconds(request.horizon, "horizon") if request.HasField("horizon") else _HORIZON
        if horizon > _LONGEST_HORIZON:
            raise InvalidArgumentError("horizon is at most ten years")
        if not 0 <= request.limit <= MAX_PAGE:
            raise InvalidArgumentError(f"limit is 0 to {MAX_PAGE}")
        keys, rights, limit = self._keyring.snapshot, self._guard.policy.rights(call.principal), request.limit or MAX_PAGE
        views = [keys.get(request.name)] if request.name else [view for name, view in keys.keys.items() if rights.know(name)]
        # With thousands of keys it takes longer than others should wait for.
        steps = await asyncio.to_thread(self._planned, views, horizon, limit + 1)
        return pb.PlanRotationsResponse(
            steps=[convert.planned_step(step) for step in steps[:limit]], truncated=len(steps) > limit
        )

    def _planned(self, views: Iterable[KeyView], horizon: float, most: int) -> list[Step]:
        now, max_age = self._keyring.clock.now(), self._keyring.served_max_age
        steps = plan_all(views, now, now + horizon, served_max_age=max_age, rules=self._rotator.rules)
        return [self._with_trouble(step, now) for step in islice(steps, most)]

    def _with_trouble(self, step: Step, now: float) -> Step:
        """Say of a version that should have been made why it is not."""
        error = self._rotator.trouble(step.key) if step.kind is StepKind.CREATE and step.at <= now else None
        return step if error is None else replace(step, delay=f"{step.delay or 'not made yet'} ({error})")

    async def disable_key(self, request: pb.DisableKeyRequest, call: Call) -> pb.DisableKeyResponse:
        """Stop a key from signing."""
        view = await self._keyring.set_enabled(request.name, False)
        return pb.DisableKeyResponse(key=convert.key(view, self._keyring.clock.now()))

    async def enable_key(self, request: pb.EnableKeyRequest, call: Call) -> pb.EnableKeyResponse:
        """Let a key sign again."""
        view = await self._keyring.set_enabled(request.name, True)
        return pb.EnableKeyResponse(key=convert.key(view, self._keyring.clock.now()))

    async def compromise_version(self, request: pb.CompromiseVersionRequest, call: Call) -> pb.CompromiseVersionResponse:
        """Stop a version for good."""
        change = await self._keyring.compromise(request.name, request.version, request.reason)
        return pb.CompromiseVersionResponse(key=self._key(change), warnings=change.warnings)

    async def destroy_version(self, request: pb.DestroyVersionRequest, call: Call) -> pb.DestroyVersionResponse:
        """Destroy the private key of a version."""
        change = await self._keyring.destroy(request.name, request.version, force=request.force)
        return pb.DestroyVersionResponse(key=self._key(change), warnings=change.warnings)

    def _advice(self, view: KeyView) -> tuple[str, ...]:
        return verifiers.advice(view.key, self._keyring.served_max_age)

    def _key(self, change: Change) -> types_pb2.Key:
        return convert.key(change.key, self._keyring.clock.now())


def _kid(asked: str) -> str | None:
    if len(asked) > 255:
        raise InvalidArgumentError("a kid has at most 255 characters")
    return asked or None
