"""Which kids an operator may choose."""

from __future__ import annotations

import pytest
from support import START, new_key

from keyd.core.errors import AlreadyExistsError
from keyd.core.key_rules import check_kid
from keyd.core.model import KeyVersion, KidFormat
from keyd.core.snapshot import KeyView, Snapshot, VersionView
from keyd.core.timeline import first

ONE = KeyView(
    new_key("one", kid_format=KidFormat.NAME_VERSION),
    (VersionView(KeyVersion("one", 1, "one-1", "t", b"{}", "h", first(START))),),
)
KEYS = Snapshot({"one": ONE, "thumbprints": KeyView(new_key("thumbprints"), ())})


@pytest.mark.parametrize(("kid", "name"), [("one-1", "two"), ("one-1", "one"), ("one-2", "two"), ("one-99", "thumbprints")])
def test_a_kid_that_is_on_record_or_will_be_anothers_is_refused(kid: str, name: str) -> None:
    with pytest.raises(AlreadyExistsError, match=f"kid '{kid}' is on record already, or kept for another key"):
        check_kid(kid, name, KEYS)


@pytest.mark.parametrize(
    ("kid", "name"),
    [("one-2", "one"), ("one-x", "two"), ("one", "two"), ("one2", "two"), ("thumbprints-1", "two"), ("three-1", "two")],
)
def test_any_other_may_be_chosen(kid: str, name: str) -> None:
    check_kid(kid, name, KEYS)
