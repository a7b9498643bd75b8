"""The words of the dialects."""

import os
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.memory import Status
from unionfs.layers import markers

NAMES = st.binary(min_size=1, max_size=251).filter(lambda name: not {0, 47} & set(name))


@pytest.mark.parametrize(
    "attribute",
    [
        b"trusted.overlay.opaque",
        b"trusted.overlay.anything at all",
        b"trusted.overlay.overlay.opaque",
        b"user.overlay.whiteout",
        b"user.overlay.unionmount.number",
        b"user.fuseoverlayfs.opaque",
        b"trusted.overlay.",
    ],
)
def test_these_attributes_are_marks(attribute: bytes) -> None:
    assert markers.is_mark(attribute)


@pytest.mark.parametrize(
    "attribute",
    [
        b"trusted.overlay",
        b"trusted.overlays",
        b"user.overlayfs.opaque",
        b"user.trusted.overlay.opaque",
        b"trusted.fuseoverlayfs.opaque",
        b"security.capability",
        b"system.posix_acl_access",
        b"",
    ],
)
def test_these_attributes_are_not(attribute: bytes) -> None:
    assert not markers.is_mark(attribute)


def test_every_mark_we_write_is_hidden() -> None:
    marks = (
        markers.OPAQUE,
        markers.REDIRECT,
        markers.METACOPY,
        markers.WHITEOUT_ATTRIBUTE,
        markers.ORIGIN,
        markers.LINKS,
        markers.NUMBER,
        markers.INDEX,
    )
    for mark in marks:
        assert all(markers.is_mark(name) for name in markers.spellings(mark, markers.USER))


def test_roots_spelling_wins_over_a_users() -> None:
    assert markers.spellings(markers.REDIRECT, markers.USER) == (
        b"trusted.overlay.redirect",
        b"user.overlay.redirect",
    )
    for namespace in (markers.TRUSTED, markers.USER):
        assert markers.spellings(markers.OPAQUE, namespace) == (
            b"trusted.overlay.opaque",
            b"user.overlay.opaque",
            b"user.fuseoverlayfs.opaque",
        )


def test_what_anybody_can_set_only_hides_unless_asked_for() -> None:
    for mark in (markers.REDIRECT, markers.METACOPY, markers.ORIGIN, markers.NUMBER, markers.INDEX):
        assert markers.spellings(mark, markers.TRUSTED) == (markers.TRUSTED + mark,)
    assert len(markers.spellings(markers.WHITEOUT_ATTRIBUTE, markers.TRUSTED)) == 2


@pytest.mark.parametrize(
    ("mode", "device", "whiteout"),
    [
        (stat.S_IFCHR, 0, True),
        (stat.S_IFCHR | 0o666, 0, True),
        (stat.S_IFCHR, os.makedev(1, 3), False),
        (stat.S_IFCHR, os.makedev(0, 1), False),
        (stat.S_IFBLK, 0, False),
        (stat.S_IFREG, 0, False),
    ],
)
def test_only_a_character_device_with_number_0_0_is_a_whiteout(
    mode: int, device: int, whiteout: bool
) -> None:
    assert markers.is_whiteout_device(Status(mode, 1, st_rdev=device)) is whiteout


@pytest.mark.parametrize(
    ("name", "hidden"),
    [
        (b".wh.name", b"name"),
        (b".wh.\xff", b"\xff"),
        (b".wh.wh.", b"wh."),
        (b".wh..hidden", b".hidden"),
        (b".wh.", None),
        (b".wh..wh.", None),
        (b".wh..wh..opq", None),
        (b".wh..wh.plnk", None),
        (b".wh..wh.aufs", None),
    ],
)
def test_a_wh_file_hides_the_name_after_its_prefix(name: bytes, hidden: bytes | None) -> None:
    assert markers.is_reserved(name)
    assert markers.hidden_by(name) == hidden


@pytest.mark.parametrize("name", [b".wh", b".whx", b"a.wh.b", b"wh.", b".Wh.name"])
def test_other_names_are_names(name: bytes) -> None:
    assert not markers.is_reserved(name)


@given(NAMES.filter(lambda name: not name.startswith(b".wh.")))
def test_a_names_wh_file_hides_that_name(name: bytes) -> None:
    assert markers.hidden_by(markers.whiteout_name(name)) == name
