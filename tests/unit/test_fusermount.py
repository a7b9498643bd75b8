"""fusermount3(1), where it is not there."""

import pytest

from unionfs.driver import fusermount
from unionfs.model import UnionError


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")


def test_who_mounts_is_told_what_to_install() -> None:
    with pytest.raises(UnionError, match="install fuse3"):
        fusermount.mount(b"/nonexistent", [])


def test_who_unmounts_gets_the_error_that_it_expects() -> None:
    with pytest.raises(FileNotFoundError):
        fusermount.unmount(b"/nonexistent", lazy=False)
