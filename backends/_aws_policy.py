"""The IAM policy that keyd needs in AWS."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from botocore.exceptions import UnknownRegionError
from botocore.session import Session

from backends._aws_config import AwsKmsConfig
from backends._aws_names import KEY_TAG, VERSION_TAG


def policy_for(config: AwsKmsConfig, key_specs: list[str]) -> str:
    """Return the policy as JSON, for the identity that keyd calls KMS with; ``key_specs`` are what it may create."""
    arn = f"arn:{_partition(config.region)}:kms:{config.region or '*'}:*"
    keys, aliases = f"{arn}:key/*", f"{arn}:alias/{config.prefix}/*"
    requested, tagged = _tags("aws:RequestTag", config.tags), _tags("aws:ResourceTag", config.tags)
    tag_keys = {"ForAllValues:StringEquals": {"aws:TagKeys": [KEY_TAG, VERSION_TAG, *config.tags]}}
    new = {"StringEquals": {**requested["StringEquals"], "kms:KeyUsage": "SIGN_VERIFY", "kms:KeySpec": key_specs}}
    window = {"NumericGreaterThanEquals": {"kms:ScheduleKeyDeletionPendingWindowInDays": str(config.deletion_window_days)}}
    statements = [
        _allow("KeydCreate", ["kms:CreateKey"], "*", {**requested, **new}),
        # CreateKey asks for it when it is given tags.
        _allow("KeydTagNew", ["kms:TagResource"], "*", {**requested, **tag_keys}),
        # Making and deleting an alias need permission for both the alias and the key.
        _allow("KeydAliases", ["kms:CreateAlias", "kms:DeleteAlias"], aliases, None),
        _allow(
            "KeydKeys",
            ["kms:CreateAlias", "kms:DeleteAlias", "kms:DescribeKey", "kms:GetPublicKey", "kms:Sign"],
            keys,
            tagged,
        ),
        _allow("KeydDestroy", ["kms:ScheduleKeyDeletion"], keys, {**tagged, **window}),
        _allow("KeydList", ["kms:ListAliases"], "*", None),
    ]
    if config.adopt_prefix is not None:
        adoptable = {"ForAnyValue:StringLike": {"kms:ResourceAliases": f"alias/{config.adopt_prefix}/*"}}
        statements.append(_allow("KeydAdopt", ["kms:DescribeKey", "kms:GetPublicKey", "kms:Sign"], keys, adoptable))
    return json.dumps({"Version": "2012-10-17", "Statement": statements}, indent=2) + "\n"


def _tags(condition: str, tags: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    return {
        "StringLike": {f"{condition}/{KEY_TAG}": "?*", f"{condition}/{VERSION_TAG}": "?*"},
        "StringEquals": {f"{condition}/{key}": value for key, value in tags.items()},
    }


def _allow(sid: str, actions: list[str], resource: str, condition: Mapping[str, Mapping[str, Any]] | None) -> dict[str, Any]:
    statement: dict[str, Any] = {"Sid": sid, "Effect": "Allow", "Action": actions, "Resource": resource}
    if condition is not None:
        statement["Condition"] = {operator: keys for operator, keys in condition.items() if keys}
    return statement


def _partition(region: str | None) -> str:
    try:
        return str(Session().get_partition_for_region(region)) if region else "aws"
    except UnknownRegionError:
        return "aws"
