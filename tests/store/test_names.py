"""What a user may write for an image."""

from __future__ import annotations

import pytest

from layerstore import names
from layerstore.errors import StoreError

DIGITS = "0123456789abcdef" * 4
DIGEST = f"sha256:{DIGITS}"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("alpine", "alpine:latest"),
        ("team/app:1.2", "team/app:1.2"),
        ("registry.example:5000/team/app", "registry.example:5000/team/app:latest"),
    ],
)
def test_a_name_has_a_tag(text: str, name: str) -> None:
    assert names.require(text) == name


@pytest.mark.parametrize(
    "text",
    ["", ":1", "App", "a b", "a:", "a/", "/a", "../a", "a:-b", "a\nb", "ä", "a:b:c", f"a@{DIGEST}"],
)
def test_what_can_be_no_name_is_refused(text: str) -> None:
    with pytest.raises(StoreError, match="can't be the name of an image: write it like"):
        names.require(text)


@pytest.mark.parametrize(
    ("text", "digits"),
    [
        ("abcd", "abcd"),
        ("sha256:abcd", "abcd"),
        (DIGITS, DIGITS),
        (f"sha256:{DIGITS}", DIGITS),
        ("abc", None),
        ("ABCD", None),
        ("abcg", None),
        ("sha512:abcd", None),
        (f"{DIGITS}0", None),
        ("abcd\n", None),
        ("", None),
    ],
)
def test_the_beginning_of_a_digest_has_four_digits_at_least(text: str, digits: str | None) -> None:
    assert names.digits(text) == digits


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (f"sha256:{DIGITS}", True),
        (f"app:1@sha256:{DIGITS}", True),
        (DIGITS, False),
        (f"app@{DIGITS}", False),
        (f"sha256:{DIGITS[1:]}", False),
        ("app", False),
    ],
)
def test_a_digest_may_stand_behind_a_name(text: str, found: bool) -> None:
    assert names.digest(text) == (f"sha256:{DIGITS}" if found else None)
