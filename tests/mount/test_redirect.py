"""Directories whose content below has another name."""

import contextlib
import os
from pathlib import Path

import pytest

from tests.support.layers import WHITEOUT, Tree, opaque, redirect
from tests.support.mounts import Mount, Mounts, UnionMount, three_times
from tests.support.snapshots import tree

BASE: Tree = {"old": {"a": "base", "e": {"b": "base"}}, "x": {"y": {"c": "base"}}}


@pytest.mark.parametrize(
    ("top", "shown"),
    [
        pytest.param(
            {"new": redirect({"n": "top"}, "/old"), "old": WHITEOUT},
            {"new": {"a": "base", "e": {"b": "base"}, "n": "top"}, "x": BASE["x"]},
            id="absolute",
        ),
        pytest.param(
            {"new": redirect({"n": "top"}, "old"), "old": WHITEOUT},
            {"new": {"a": "base", "e": {"b": "base"}, "n": "top"}, "x": BASE["x"]},
            id="relative",
        ),
        pytest.param(
            {"new": redirect({}, "/x/y"), "x": {"y": WHITEOUT}},
            {"new": {"c": "base"}, "old": BASE["old"], "x": {}},
            id="absolute from a depth",
        ),
        pytest.param(
            {"old": {"moved": redirect({"n": "top"}, "/x/y")}},
            {
                "old": {"a": "base", "e": {"b": "base"}, "moved": {"c": "base", "n": "top"}},
                "x": BASE["x"],
            },
            id="absolute to a depth",
        ),
        pytest.param(
            {"x": {"z": redirect({}, "y"), "y": WHITEOUT}},
            {"old": BASE["old"], "x": {"z": {"c": "base"}}},
            id="relative at a depth",
        ),
        pytest.param(
            {"new": redirect({"e": {"n": "top"}}, "/old")},
            {"new": {"a": "base", "e": {"b": "base", "n": "top"}}, **BASE},
            id="directories below merge",
        ),
        pytest.param(
            {"new": redirect({"e": opaque({"n": "top"})}, "/old")},
            {"new": {"a": "base", "e": {"n": "top"}}, **BASE},
            id="opaque below",
        ),
        pytest.param(
            {"new": redirect({"e": redirect({"n": "top"}, "/x/y")}, "/old")},
            {"new": {"a": "base", "e": {"c": "base", "n": "top"}}, **BASE},
            id="absolute within a redirect",
        ),
        pytest.param(
            {"new": redirect({"f": redirect({}, "e"), "e": WHITEOUT}, "/old")},
            {"new": {"a": "base", "f": {"b": "base"}}, **BASE},
            id="relative within a redirect",
        ),
        pytest.param(
            {"new": redirect({"n": "top"}, "/none")}, {"new": {"n": "top"}, **BASE}, id="to nothing"
        ),
    ],
)
def test_a_redirect_is_followed(both: Mounts[Mount], top: Tree, shown: Tree) -> None:
    mount = both(BASE, top)
    for when in three_times(mount):
        assert tree(mount.path) == shown, when


def test_a_redirect_of_users(union: Mounts[UnionMount]) -> None:
    layer: Tree = {"new": redirect({"n": "top"}, "/old", "user.overlay"), "old": WHITEOUT}
    mount = union(BASE, layer, options=["userxattr"])
    for when in three_times(mount):
        assert tree(mount / "new") == {"a": "base", "e": {"b": "base"}, "n": "top"}, when


def test_redirects_chain_over_layers(both: Mounts[Mount]) -> None:
    mount = both(
        BASE,
        {"second": redirect({"2": ""}, "/old"), "old": WHITEOUT},
        {"x": {"third": redirect({"3": ""}, "/second")}, "second": WHITEOUT},
        {"fourth": redirect({"4": ""}, "/x/third"), "x": {"third": WHITEOUT}},
    )
    for when in three_times(mount):
        assert tree(mount.path) == {
            "fourth": {"2": "", "3": "", "4": "", "a": "base", "e": {"b": "base"}},
            "x": BASE["x"],
        }, when


def test_a_redirect_skips_layers_without_its_name(both: Mounts[Mount]) -> None:
    mount = both(BASE, {"between": ""}, {"new": redirect({}, "/old")}, {"new": {"n": "top"}})
    for when in three_times(mount):
        assert tree(mount / "new") == {"a": "base", "e": {"b": "base"}, "n": "top"}, when


def test_a_redirect_stops_at_a_whiteout_of_its_target(both: Mounts[Mount]) -> None:
    mount = both(BASE, {"old": WHITEOUT}, {"new": redirect({"n": "top"}, "/old")})
    for when in three_times(mount):
        assert tree(mount.path) == {"new": {"n": "top"}, "x": BASE["x"]}, when


def test_an_opaque_parent_does_not_stop_an_absolute_redirect(both: Mounts[Mount]) -> None:
    mount = both(BASE, {"x": opaque({"new": redirect({"n": "top"}, "/old")})})
    for when in three_times(mount):
        assert tree(mount / "x") == {"new": {"a": "base", "e": {"b": "base"}, "n": "top"}}, when


OUTSIDE = ["/../secret", "../secret", "/old/../../secret", "..", ".", "/", "", "a/b", "/link"]


def test_no_redirect_leads_out_of_the_layer(union: Mounts[UnionMount], directory: Path) -> None:
    """And what a bad one stands beside is shown all the same."""
    secret = directory / "unionmount0" / "secret"

    def layer(root: Path) -> None:
        secret.mkdir()
        (secret / "password").write_text("secret")
        (root / "old").mkdir()
        (root / "link").symlink_to(secret)

    bad = {f"new{number}": redirect({"n": ""}, to) for number, to in enumerate(OUTSIDE)}
    mount = union(layer, {**bad, "fine": "fine"})
    for when in three_times(mount):
        assert {"old", "link", "fine"} <= set(os.listdir(mount.path)), when
        for name in bad:
            with contextlib.suppress(OSError):
                assert "password" not in os.listdir(mount / name), (name, when)
            with pytest.raises(OSError, match=r"."):
                (mount / name / "password").read_bytes()


def test_a_directory_below_one_that_a_layer_renamed_can_be_renamed(both: Mounts[Mount]) -> None:
    """Where the content lies is a whiteout in the layer whose redirect leads there."""
    mount = both(
        {"a": {"sub": {"file": "base", "deep": {"x": "deep"}}}},
        {"b": redirect({}, "a"), "a": WHITEOUT},
    )
    os.rename(mount / "b" / "sub", mount / "c")
    os.rename(mount / "c" / "deep", mount / "d")
    for when in three_times(mount):
        assert tree(mount.path) == {"b": {}, "c": {"file": "base"}, "d": {"x": "deep"}}, when


def test_an_absolute_redirect_leads_out_of_an_opaque_directory(both: Mounts[Mount]) -> None:
    mount = both(
        {"x": {"file": "base"}, "o": {"hidden": ""}},
        {"o": opaque({"y": redirect({}, "/x")}), "x": WHITEOUT},
    )
    os.rename(mount / "o" / "y", mount / "z")
    for when in three_times(mount):
        assert tree(mount.path) == {"o": {}, "z": {"file": "base"}}, when
