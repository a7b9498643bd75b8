"""Where a store is: which one is meant, how it comes to be, and what is none."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from layerstore import check, paths
from layerstore.errors import DamagedError, StoreError
from layerstore.repository import Repository

FORMAT = b"layerstore 1\n"
DIGITS = "0f" * 32


def test_a_store_is_made_on_first_use_for_its_owner_only(tmp_path: Path) -> None:
    root = tmp_path / "above" / "store"
    opened = paths.opened(str(root))
    assert opened.root == str(root)
    assert paths.exists(str(root))
    assert (root / "format").read_bytes() == FORMAT
    directories = [root, *(path for path in root.iterdir() if path.is_dir())]
    assert {stat.S_IMODE(path.stat().st_mode) for path in directories} == {0o700}
    assert stat.S_IMODE((root / "format").stat().st_mode) == 0o400
    assert len(list((root / "objects").iterdir())) == 256


def test_an_empty_directory_becomes_a_store_that_others_cannot_enter(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir(mode=0o755)
    paths.opened(str(tmp_path / "store"))
    assert stat.S_IMODE((tmp_path / "store").stat().st_mode) == 0o700


def test_a_filesystem_of_its_own_becomes_a_store(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    paths.opened(str(tmp_path))
    with Repository(str(tmp_path)) as repository:
        assert list(check.check(repository)) == []


def test_a_store_that_was_not_finished_is_finished(tmp_path: Path) -> None:
    root = tmp_path / "store"
    paths.opened(str(root))
    (root / "format").unlink()
    (root / "format.new").touch(0o400)
    (root / "objects" / "7f").rmdir()
    paths.opened(str(root))
    assert (root / "format").read_bytes() == FORMAT
    assert (root / "objects" / "7f").is_dir()
    assert not (root / "format.new").exists()


def test_a_store_is_the_same_by_a_link(tmp_path: Path) -> None:
    paths.opened(str(tmp_path / "store"))
    (tmp_path / "link").symlink_to("store")
    assert paths.opened(str(tmp_path / "link")).root == str(tmp_path / "store")


def test_many_may_make_a_store_at_once(tmp_path: Path) -> None:
    begin = threading.Barrier(8)

    def opened(_: int) -> str:
        begin.wait()
        return paths.opened(str(tmp_path / "store")).root

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(opened, range(8))) == {str(tmp_path / "store")}
    assert (tmp_path / "store" / "format").read_bytes() == FORMAT


def test_a_directory_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(StoreError, match="is not empty and no layer store"):
        paths.opened(str(tmp_path))
    assert os.listdir(tmp_path) == ["mine"]


def test_a_store_is_not_made_unless_asked_for(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"there is no layer store at .*/store; layerstore import"):
        paths.opened(str(tmp_path / "store"), create=False)
    assert not paths.exists(str(tmp_path / "store"))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("made", [True, False])
def test_a_store_of_another_user_is_refused_even_to_root(tmp_path: Path, made: bool) -> None:
    root = tmp_path / "store"
    root.mkdir()
    if made:
        paths.opened(str(root))
    os.chown(root, 1000, 1000)
    with pytest.raises(StoreError, match=r"the store at .*/store is another user's; name one of"):
        paths.opened(str(root))
    assert paths.exists(str(root)) == made


@pytest.mark.parametrize("name", ["layers", "objects", "blobs", "damaged", "tmp"])
def test_a_directory_of_a_store_is_no_link(tmp_path: Path, name: str) -> None:
    root = tmp_path / "store"
    paths.opened(str(root))
    (root / name).rename(tmp_path / "elsewhere")
    with pytest.raises(DamagedError, match=f"store/{name} is no directory"):
        paths.opened(str(root))
    (root / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DamagedError, match=f"store/{name} is no directory"):
        paths.opened(str(root))


@pytest.mark.parametrize("version", [b"layerstore 2\n", b"", b"layerstore 1", b"\xff" * 100])
def test_a_store_of_another_version_is_refused(tmp_path: Path, version: bytes) -> None:
    (tmp_path / "format").write_bytes(version)
    with pytest.raises(StoreError, match=r"has format .*, and this program knows 'layerstore 1'"):
        paths.opened(str(tmp_path))


def test_a_file_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        paths.opened(str(tmp_path / "file"))


def test_layers_and_blobs_are_called_by_their_digits(tmp_path: Path) -> None:
    made = paths.Paths("/store")
    assert made.layer(f"sha256:{DIGITS}") == f"/store/layers/{DIGITS}"
    assert made.blob(f"sha256:{DIGITS}") == f"/store/blobs/{DIGITS}"


@pytest.mark.parametrize(
    "name",
    [
        "sha256:../../victim",
        "sha256:",
        "sha256:/etc/passwd",
        "sha256:00ff",
        f"sha256:{DIGITS}\n",
        f"sha256:{DIGITS.upper()}",
        DIGITS,
    ],
)
def test_what_is_no_digest_leads_nowhere(name: str) -> None:
    made = paths.Paths("/store")
    for path in (made.layer, made.mark, made.blob):
        with pytest.raises(DamagedError, match="is no sha256 digest"):
            path(name)


# Which one


@pytest.fixture(autouse=True)
def nothing_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LAYERSTORE", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/me")


def test_the_store_of_root_is_the_machine_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("XDG_DATA_HOME", "/root/data")
    assert paths.default() == "/var/lib/layerstore"


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (None, "/home/me/.local/share/layerstore"),
        ("", "/home/me/.local/share/layerstore"),
        ("relative", "/home/me/.local/share/layerstore"),
        ("/data", "/data/layerstore"),
    ],
)
def test_the_store_of_a_user_is_with_their_data(
    monkeypatch: pytest.MonkeyPatch, told: str | None, expected: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    if told is not None:
        monkeypatch.setenv("XDG_DATA_HOME", told)
    assert paths.default() == expected


def test_the_environment_names_a_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAYERSTORE", "/some/where")
    assert paths.default() == "/some/where"
    monkeypatch.setenv("LAYERSTORE", "some/where")
    with pytest.raises(StoreError, match=r"\$LAYERSTORE is some/where: make it an absolute path"):
        paths.default()


def test_root_of_a_user_namespace_has_a_store_of_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LAYERSTORE", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", "/home/me/data")
    program = "from layerstore import paths; print(paths.default())"
    command = ["unshare", "--user", "--map-root-user", sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "/home/me/data/layerstore\n"
