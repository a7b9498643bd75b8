"""Which layer and step gave a path, and what hides what."""

from __future__ import annotations

import errno

import pytest

from layerstore.errors import StoreError
from layerstore.inspection.blame import Blame, blame
from tests.support.layers import WHITEOUT, Directory, File, Symlink, Tree, opaque
from tests.unit.errors import raises
from tests.unit.memory import Implied, MemoryLayer


def blamed(path: str, *trees: Tree | Directory) -> Blame:
    layers = [MemoryLayer(tree, identity=f"layer {n}") for n, tree in enumerate(trees)]
    return blame(layers, path.encode())


def told(found: Blame) -> list[tuple[int, str, bytes, str]]:
    return [
        (said.position, said.effect, said.path, "whiteout" if said.item is None else said.item.kind)
        for said in found.statements
    ]


def test_the_topmost_file_shows_and_the_others_are_hidden() -> None:
    found = blamed("/f", {"f": File("0", mode=0o600)}, {}, {"f": "22"}, {})

    assert told(found) == [(2, "shows", b"/f", "file"), (0, "hidden", b"/f", "file")]
    assert found.shows is found.statements[0]
    assert [said.diff_id for said in found.statements] == ["layer 2", "layer 0"]
    upper, lower = (said.item for said in found.statements)
    assert upper is not None
    assert lower is not None
    assert (upper.size, upper.mode & 0o777, lower.size, lower.mode & 0o777) == (2, 0o644, 1, 0o600)


def test_a_removed_file_tells_who_removed_it() -> None:
    found = blamed("f", {"f": ""}, {"f": WHITEOUT}, {"g": ""})

    assert told(found) == [(1, "removes", b"/f", "whiteout"), (0, "hidden", b"/f", "file")]
    assert found.shows is None


def test_a_file_whose_directory_was_removed_tells_who_did_it() -> None:
    found = blamed("/d/e/f", {"d": {"e": {"f": "1"}}}, {"d": {"e": {"f": "2"}}}, {"d": WHITEOUT})

    assert told(found) == [
        (2, "removes", b"/d", "whiteout"),
        (1, "hidden", b"/d/e/f", "file"),
        (0, "hidden", b"/d/e/f", "file"),
    ]


@pytest.mark.parametrize(
    ("above", "kind"), [({"d": "now a file"}, "file"), ({"d": opaque({})}, "directory")]
)
def test_what_else_hides_a_directory_removes_what_is_in_it(above: Tree, kind: str) -> None:
    assert told(blamed("/d/f", {"d": {"f": ""}}, above)) == [
        (1, "removes", b"/d", kind),
        (0, "hidden", b"/d/f", "file"),
    ]


def test_directories_merge_down_to_an_opaque_one() -> None:
    found = blamed("/d", {"d": {}}, {"d": opaque({})}, {"d": {}}, {"d": Implied({"x": ""})})

    assert told(found) == [
        (2, "shows", b"/d", "directory"),
        (1, "merges", b"/d", "directory"),
        (0, "hidden", b"/d", "directory"),
    ]
    assert [said.opaque for said in found.statements] == [False, True, False]


def test_a_directory_without_an_entry_takes_away_but_does_not_show() -> None:
    hides = Implied({"x": ""}, xattrs={"trusted.overlay.opaque": b"y"})

    assert told(blamed("/d", {"d": {}}, {"d": hides})) == [
        (1, "removes", b"/d", "directory"),
        (0, "shows", b"/d", "directory"),
    ]


def test_links_on_the_way_are_followed_and_the_last_is_not() -> None:
    base: Tree = {"usr": {"bin": {"sh": Symlink("dash"), "dash": ""}}, "bin": Symlink("/usr/bin")}

    assert blamed("/bin/sh", base).path == b"/usr/bin/sh"
    assert told(blamed("/bin/sh", base)) == [(0, "shows", b"/usr/bin/sh", "symlink")]
    assert told(blamed("/bin", base)) == [(0, "shows", b"/bin", "symlink")]
    assert told(blamed("/bin/../bin/dash", base)) == [(0, "shows", b"/usr/bin/dash", "file")]


def test_links_on_the_way_to_what_is_gone_are_followed_as_far_as_they_lead() -> None:
    base: Tree = {"usr": {"bin": {"d": {"f": ""}}}, "bin": Symlink("usr/bin")}
    found = blamed("/bin/d/f", base, {"usr": {"bin": {"d": WHITEOUT}}})

    assert told(found) == [
        (1, "removes", b"/usr/bin/d", "whiteout"),
        (0, "hidden", b"/usr/bin/d/f", "file"),
    ]


def test_the_root_has_a_history_too() -> None:
    assert told(blamed("/", {}, {})) == [
        (1, "shows", b"/", "directory"),
        (0, "merges", b"/", "directory"),
    ]


def test_what_no_layer_ever_had_is_an_error() -> None:
    with raises(errno.ENOENT):
        blamed("/d/nothing", {"d": {}})


def test_a_directory_that_is_only_implied_is_said_to_be() -> None:
    with pytest.raises(StoreError, match="/d: no layer has an entry of its own"):
        blamed("/d", {"d": Implied({"x": ""})})
