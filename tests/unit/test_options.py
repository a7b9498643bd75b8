import contextlib
import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unionfs.options import Driver, Options, UsageError, parse


def test_no_options_ask_for_nothing() -> None:
    assert parse([]) == Options()
    assert parse([""]) == Options()


def test_lowerdir_names_the_top_first() -> None:
    assert parse(["lowerdir=app:deps:base"]).lower == (b"base", b"deps", b"app")


def test_lowerdir_plus_adds_layers_downwards() -> None:
    assert parse(["lowerdir+=app", "lowerdir+=deps,lowerdir+=ba:se"]).lower == (
        b"ba:se",
        b"deps",
        b"app",
    )


def test_a_backslash_protects_commas_and_colons() -> None:
    options = parse([r"lowerdir=a\:b:c\,d:e\\,upperdir=u\,p,workdir=w\:k"])
    assert options.lower == (b"e\\", b"c,d", b"a:b")
    assert options.upper == b"u,p"
    assert options.work == b"w:k"


def test_names_may_have_any_bytes() -> None:
    assert parse([os.fsdecode(b"upperdir=\xff\xfe\n")]).upper == b"\xff\xfe\n"


def test_the_driver_is_auto_unless_named() -> None:
    assert parse([]).driver is Driver.AUTO
    assert parse(["driver=native,driver=stock"]).driver is Driver.STOCK
    assert parse(["driver=native"]).driver is Driver.NATIVE


@pytest.mark.parametrize("option", ["driver", "driver=", "driver=fast"])
def test_a_driver_that_is_unknown_is_refused_with_those_that_are(option: str) -> None:
    with pytest.raises(UsageError, match=f"^-o {option}: the drivers are auto, stock, native$"):
        parse([option])


@pytest.mark.parametrize(
    ("words", "flags"),
    [
        (["ro"], {"ro"}),
        (["ro,rw"], set()),
        (["rw", "ro"], {"ro"}),
        (["dev,suid,nodev"], {"suid"}),
        (["noatime"], {"noatime"}),
        (["noatime,relatime"], set()),
        (["noexec,sync,dirsync,exec,async"], {"dirsync"}),
        (["allow_other,volatile,debug"], {"allow_other", "volatile", "debug"}),
        (["fsync=0"], {"volatile"}),
        (["volatile,fsync=1"], set()),
        (["lowerdir=a"], {"suid"}),
        (["nosuid,lowerdir=a"], set()),
    ],
)
def test_of_opposite_options_the_later_holds(words: list[str], flags: set[str]) -> None:
    assert parse(words).flags == flags


@pytest.mark.parametrize(
    ("words", "metacopy"),
    [
        ([], None),
        (["metacopy=on"], True),
        (["metacopy=on", "metacopy=off"], False),
        (["metacopy=off", "userxattr"], False),
    ],
)
def test_metacopy_is_what_was_said_last_if_anything(
    words: list[str], metacopy: bool | None
) -> None:
    assert parse(words).metacopy is metacopy


@pytest.mark.parametrize(
    "option",
    [
        "defaults",
        "noauto",
        "nofail",
        "_netdev",
        "user",
        "user=somebody",
        "x-systemd.automount",
        "X-mount.mkdir",
        "comment=anything",
        "default_permissions",
        "nodiratime",
        "redirect_dir=on",
        "index=on",
        "xino=auto",
        "nfs_export=off",
    ],
)
def test_what_mount_passes_and_what_holds_anyway_is_accepted(option: str) -> None:
    assert parse([option]) == Options()


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ("bogus", "unknown option"),
        ("bogus=1", "unknown option"),
        ("ro=1", "unknown option"),
        ("Ro", "unknown option"),
        ("upperdir", "unknown option"),
        ("upperdir=", "needs a value"),
        ("lowerdir=", "needs a value"),
        ("lowerdir=a::b", "data-only layers"),
        ("lowerdir=a:", "empty"),
        ("redirect_dir=off", "only redirect_dir=on"),
        ("metacopy=maybe", "only metacopy=on"),
        ("metacopy=on,userxattr", "one has to go"),
        ("index", "only index=on"),
        ("remount", "unmount it and mount it again"),
        ("context=system_u:object_r:x", "SELinux"),
    ],
)
def test_other_options_are_refused_with_the_reason(option: str, reason: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse(["ro", option])
    assert str(refused.value).startswith(f"-o {option}")
    assert reason in str(refused.value)


@given(st.lists(st.text(max_size=40)))
def test_any_words_give_options_or_a_usage_error(words: list[str]) -> None:
    words = [word.encode("utf-8", "replace").decode() for word in words]
    with contextlib.suppress(UsageError):
        parse(words)


_NAMES = st.binary(min_size=1, max_size=20).filter(lambda name: b"\0" not in name)


@given(st.lists(_NAMES, min_size=1, max_size=5), _NAMES)
def test_every_name_can_be_given(lower: list[bytes], upper: bytes) -> None:
    def escaped(name: bytes) -> str:
        return re.sub(r"([\\,:])", r"\\\1", os.fsdecode(name))

    word = f"lowerdir={':'.join(map(escaped, reversed(lower)))},upperdir={escaped(upper)}"
    options = parse([word])
    assert options.lower == tuple(lower)
    assert options.upper == upper
