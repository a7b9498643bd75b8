import errno
import os
import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unionfs.model import NO_ID
from unionfs.options import UsageError, parse
from unionfs.owners import ID_MAX, Owners

MAPPED = parse(["uidmapping=100000:0:1000:5:5000:1", "gidmapping=200000:0:10"]).owners
SQUASHED = parse(["squash_to_root,squash_to_gid=7,uidmapping=100000:0:1000"]).owners

_ACL = b"system.posix_acl_access"


def _acl(*entries: tuple[int, int, int]) -> bytes:
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def _error(act: Callable[[], object]) -> int | None:
    with pytest.raises(OSError) as raised:  # noqa: PT011 - the errno is the answer
        act()
    return raised.value.errno


def test_without_options_every_owner_shows_as_it_is() -> None:
    for number in (0, 1, 65534, ID_MAX):
        assert Owners().users.shown(number) == number
        assert Owners().groups.stored(number, errno.EOVERFLOW) == number
        assert Owners().groups.changed(number) == number


def test_ranges_count_in_both_directions() -> None:
    users = MAPPED.users
    assert [users.shown(stored) for stored in (100000, 100999, 5)] == [0, 999, 5000]
    assert [users.stored(shown, errno.EINVAL) for shown in (0, 999, 5000)] == [100000, 100999, 5]
    assert MAPPED.groups.shown(200009) == 9


@pytest.mark.parametrize("stored", [0, 4, 6, 99999, 101000, ID_MAX])
def test_an_owner_in_no_range_shows_as_nobody_at_all(stored: int) -> None:
    assert MAPPED.users.shown(stored) == NO_ID


@pytest.mark.parametrize("shown", [1000, 4999, 5001, 65534, ID_MAX, NO_ID])
def test_an_owner_in_no_range_is_never_given(shown: int) -> None:
    assert _error(lambda: MAPPED.users.stored(shown, errno.EOVERFLOW)) == errno.EOVERFLOW
    assert _error(lambda: MAPPED.users.changed(shown)) == errno.EOVERFLOW


def test_ranges_may_begin_with_a_colon() -> None:
    """So containers/storage writes them."""
    assert parse(["uidmapping=:0:100000:65536"]) == parse(["uidmapping=0:100000:65536"])


def test_squashed_owners_show_as_one_and_stay() -> None:
    assert {SQUASHED.users.shown(stored) for stored in (0, 5, 100000)} == {0}
    assert {SQUASHED.groups.shown(stored) for stored in (0, 5, 100000)} == {7}
    assert SQUASHED.groups.changed(7) is None
    assert _error(lambda: SQUASHED.groups.changed(0)) == errno.EPERM
    # What is made belongs to its maker.
    assert SQUASHED.users.stored(1, errno.EOVERFLOW) == 100001
    assert SQUASHED.groups.stored(1, errno.EOVERFLOW) == 1


def test_squashing_one_kind_goes_before_squashing_to_root() -> None:
    for words in ("squash_to_root,squash_to_gid=7", "squash_to_gid=7,squash_to_root"):
        assert parse([words]).owners.groups.shown(5) == 7


def test_acls_name_owners_as_they_show() -> None:
    stored = _acl((1, 7, ID_MAX + 1), (2, 6, 100007), (2, 4, 1), (8, 4, 200003), (32, 4, 9))
    shown = _acl((1, 7, ID_MAX + 1), (2, 6, 7), (2, 4, ID_MAX), (8, 4, 3), (32, 4, 9))
    assert MAPPED.shown_value(_ACL, stored) == shown
    assert Owners().shown_value(_ACL, stored) == stored
    assert MAPPED.shown_value(b"user.acl", stored) == stored
    good = _acl((1, 7, ID_MAX + 1), (2, 6, 7), (8, 4, 3))
    assert MAPPED.shown_value(_ACL, MAPPED.stored_value(_ACL, good)) == good
    assert _error(lambda: MAPPED.stored_value(_ACL, shown)) == errno.EINVAL
    assert _error(lambda: MAPPED.stored_value(_ACL, good + b"x")) == errno.EINVAL


def test_capabilities_count_for_the_root_user_as_it_shows() -> None:
    name, rest = b"security.capability", os.urandom(16)

    def revision_3(root: int) -> bytes:
        return b"\1\0\0\3" + rest + struct.pack("<I", root)

    revision_2 = b"\1\0\0\2" + rest
    assert MAPPED.shown_value(name, revision_3(100000)) == revision_3(0)
    assert MAPPED.stored_value(name, revision_3(0)) == revision_3(100000)
    # Of root itself, who is in no range, and as whom 100000 shows.
    assert MAPPED.shown_value(name, revision_2) == revision_3(ID_MAX)
    assert MAPPED.stored_value(name, revision_2) == revision_3(100000)
    for value in (revision_2, revision_3(7)):
        assert Owners().stored_value(name, value) == value


@given(st.integers(0, ID_MAX))
def test_what_shows_is_stored_again_as_it_was(number: int) -> None:
    shown = MAPPED.users.shown(number)
    if shown != NO_ID:
        assert MAPPED.users.changed(shown) == number


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ("uidmapping=0:1", "STORED:SHOWN:LENGTH"),
        ("uidmapping=", "is not a number"),
        ("gidmapping=0:x:1", "x is not a number"),
        ("gidmapping=0:-1:1", "-1 is not a number"),
        ("uidmapping=0:0:0", "can't have 0 ids"),
        ("uidmapping=4294967295:0:1", "can't have 1 ids"),
        ("uidmapping=0:0:10:9:20:1", "id 9 is in two ranges"),
        ("uidmapping=0:10:10:50:19:1", "id 19 is in two ranges"),
        ("uidmapping=" + ":".join(f"{n}:{n}:1" for n in range(341)), "more than 340"),
        ("squash_to_uid=", "nothing is not a number"),
        ("squash_to_uid", "nothing is not a number"),
        ("squash_to_root=1", "unknown option"),
    ],
)
def test_ranges_that_can_not_be_meant_are_refused(option: str, reason: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse([option])
    assert str(refused.value).startswith(f"-o {option}")
    assert reason in str(refused.value)
