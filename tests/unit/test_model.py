"""What is shown to people stays on its line, and is what it looks like."""

from __future__ import annotations

import pytest

from unionfs.model import printable


@pytest.mark.parametrize("text", ["", "a b", "naïve/ファイル", "é\u0301", "\U0001f600", "\\x0a"])
def test_what_can_be_seen_is_shown_as_it_is(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb", r"a\x0ab"),
        ("\x1b[31m\x7f\x85", r"\x1b[31m\x7f\x85"),
        ("\u2028\u2029", r"\u2028\u2029"),
        ("invoice\u202efdp.exe", r"invoice\u202efdp.exe"),
        ("\u2066a\u2069", r"\u2066a\u2069"),
        ("a\u200bb\ufeff\xad", r"a\u200bb\ufeff\xad"),
        ("\U000e0041", r"\U000e0041"),
        ("\udcff\n", r"\xff\x0a"),
    ],
)
def test_what_can_not_be_seen_or_turns_the_rest_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown
