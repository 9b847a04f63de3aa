"""Paths of control groups, as systemd and container runtimes make them, and as those who would like to be taken for them do."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from keyd.service.gate.cgroup import Place, place

ID = "3f" * 32
OTHER = "a0" * 32


@pytest.mark.parametrize(
    ("path", "unit", "user_unit", "container"),
    [
        ("/", None, None, None),
        ("/init.scope", "init.scope", None, None),
        ("/system.slice/shop.service", "shop.service", None, None),
        ("/system.slice/shop.service/worker", "shop.service", None, None),
        ("/system.slice/system-getty.slice/getty@tty1.service", "getty@tty1.service", None, None),
        ("/system.slice/system-a\\x2db.slice/a\\x2db@1.service", "a\\x2db@1.service", None, None),
        ("/shop.slice/shop-fast.slice/a.service", "a.service", None, None),
        ("/system.slice/_cpu.service", "cpu.service", None, None),
        ("/system.slice/dbus.socket", "dbus.socket", None, None),
        ("/system.slice", None, None, None),
        ("/system.slice/anything", None, None, None),
        ("/system.slice/.service", None, None, None),
        ("/system.slice/a@.service", None, None, None),
        ("/system.slice/a b.service", None, None, None),
        ("/user.slice/user-1000.slice/session-2.scope", "session-2.scope", None, None),
        (
            "/user.slice/user-1000.slice/user@1000.service/app.slice/app-agent.service",
            "user@1000.service",
            "app-agent.service",
            None,
        ),
        ("/user.slice/user-1000.slice/user@1000.service/init.scope", "user@1000.service", "init.scope", None),
        ("/user.slice/user-1000.slice/user@x.service/app.slice/agent.service", "user@x.service", None, None),
        # a runtime that asks systemd for its groups
        (f"/system.slice/docker-{ID}.scope", f"docker-{ID}.scope", None, ID),
        (f"/machine.slice/libpod-{ID}.scope/container", f"libpod-{ID}.scope", None, ID),
        (f"/machine.slice/libpod-conmon-{ID}.scope", f"libpod-conmon-{ID}.scope", None, None),
        (
            f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod01ab.slice/cri-containerd-{ID}.scope",
            f"cri-containerd-{ID}.scope",
            None,
            ID,
        ),
        (f"/kubepods.slice/kubepods-pod01ab.slice/crio-{ID}.scope", f"crio-{ID}.scope", None, ID),
        (f"/system.slice/containerd.service/kubepods-pod1.slice:cri-containerd:{ID}", "containerd.service", None, ID),
        # a runtime that makes them itself
        (f"/docker/{ID}", None, None, ID),
        (f"/docker/{ID}/system.slice/shop.service", None, None, ID),
        (f"/libpod_parent/libpod-{ID}", None, None, ID),
        (f"/kubepods/burstable/pod12345678-1234-1234-1234-123456789abc/{ID}", None, None, ID),
        (f"/kubepods/pod12345678-1234-1234-1234-123456789abc/{ID}", None, None, ID),
        (f"/kubepods/other/{ID}", None, None, None),
        ("/docker/buildkit", None, None, None),
        (f"/{ID}", None, None, None),
        # who would like to be taken for another
        (f"/docker/{ID}/docker/{OTHER}", None, None, ID),
        (f"/system.slice/docker-{ID}.scope/system.slice/docker-{OTHER}.scope", f"docker-{ID}.scope", None, ID),
        (f"/system.slice/mine.service/docker-{OTHER}.scope", "mine.service", None, None),
        (f"/user.slice/user-1.slice/user@1.service/docker-{ID}.scope", "user@1.service", f"docker-{ID}.scope", None),
        ("/user.slice/user-1.slice/user@1.service/system.slice/shop.service", "user@1.service", "shop.service", None),
        ("/user.slice/user-1.slice/session-1.scope/shop.service", "session-1.scope", "shop.service", None),
        (f"/system.slice/docker-{ID.upper()}.scope", f"docker-{ID.upper()}.scope", None, None),
        (f"/system.slice/docker-{ID}0.scope", f"docker-{ID}0.scope", None, None),
    ],
)
def test_what_a_path_says(path, unit, user_unit, container):
    assert place(f"0::{path}\n") == Place(path, unit, user_unit, container)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "system.slice/a.service",
        "/../system.slice/a.service",
        "/a/../b.service",
        "/system.slice/a.service (deleted)",
        "/a\x1b.service",
    ],
)
def test_a_path_that_says_nothing(path):
    assert place(f"0::{path}\n") == Place()


@pytest.mark.parametrize(
    ("text", "cgroup"),
    [
        ("12:cpu,cpuacct:/a\n1:name=systemd:/system.slice/a.service\n0::/system.slice/b.service\n", "/system.slice/b.service"),
        ("12:cpu:/a\n1:name=systemd:/system.slice/a.service\n", "/system.slice/a.service"),
        ("1:name=systemd:/system.slice/a.service\n0::/\n", "/system.slice/a.service"),
        ("1:name=systemd:/\n0::/\n", "/"),
        ("9:memory:/process/1\n0::/\n", "/"),
        ("9:memory:/system.slice/a.service\n", None),
        ("1:name=other:/system.slice/a.service\n", None),
        ("0::/system.slice/a:b.service\n", "/system.slice/a:b.service"),
        ("", None),
        ("0::/" + "a" * 70000, None),
    ],
)
def test_which_hierarchy_counts(text, cgroup):
    assert place(text).cgroup == cgroup


NAMES = st.sampled_from(
    [
        "system.slice",
        "user@1.service",
        "a.service",
        f"docker-{ID}.scope",
        "docker",
        ID,
        "kubepods",
        "x",
        "..",
        ".",
        "_a.slice",
        "session-1.scope",
    ]
)


@given(st.text(max_size=300))
@example("0::/")
def test_any_text_is_survived(text):
    place(text)


@given(st.lists(NAMES, max_size=8))
def test_what_is_below_a_unit_changes_nothing(parts):
    """Who is confined to a unit may make any group below it, and gains no name by it."""
    confined = place("0::/system.slice/mine.service/" + "/".join(parts))
    if ".." not in parts:
        assert (confined.unit, confined.user_unit, confined.container) == ("mine.service", None, None)


@given(st.lists(NAMES, max_size=8))
def test_what_is_below_a_user_is_the_users(parts):
    confined = place("0::/user.slice/user-7.slice/user@7.service/" + "/".join(parts))
    if ".." not in parts:
        assert (confined.unit, confined.container) == ("user@7.service", None)
