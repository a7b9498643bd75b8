"""The commands that make images of images."""

from __future__ import annotations

import fcntl
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from layerstore.cli.main import main
from layerstore.repository import Image
from tests.support import tars
from tests.support.layers import WHITEOUT, Node, build
from tests.support.stores import StoreBuilder

A, B = tars.tar(tars.file("a", b"a")), tars.tar(tars.file("b", b"b"))


@pytest.fixture
def base(store: StoreBuilder, monkeypatch: pytest.MonkeyPatch) -> Image:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    monkeypatch.setenv("LAYERSTORE", str(store.path))
    return store.image("base:1", [A, B])


@pytest.fixture
def upper(directory: Path) -> Path:
    build(directory / "upper", {"a": WHITEOUT, "new": "x", "socket": Node(stat.S_IFSOCK)})
    return directory / "upper"


def run(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str, str]:
    status = main([str(word) for word in words])
    return status, *capsys.readouterr()


def test_a_commit_makes_an_image_and_tells_what_it_left_out(
    base: Image, upper: Path, store: StoreBuilder, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["commit", str(upper), "--onto", "base:1", "--tag", "mine:1", "-t", "mine:2"]
    status, output, said = run(capsys, *words, "--message", "why", "--author", "me")
    assert status == 0
    line = "left out: /socket (no layer has a socket, or the store itself, in it)"
    assert said == f"layerstore: {line}\n"
    with store.opened() as repository:
        image = repository.find("mine:1")
    assert output == f"{image.id[:19]}  mine:1, mine:2\n"
    step = image.config.history[-1]
    assert (step.created, step.created_by) == ("1970-01-01T00:00:01Z", "layerstore commit")
    assert (step.comment, step.author, image.config.author) == ("why", "me", "me")
    assert list(image.layers[:2]) == list(base.layers)


def test_a_commit_tells_in_json_what_it_made(
    base: Image, upper: Path, store: StoreBuilder, capsys: pytest.CaptureFixture[str]
) -> None:
    status, output, _ = run(capsys, "commit", upper, "--onto", base.id, "--json")
    assert status == 0
    with store.opened() as repository:
        image = repository.images()[-1]
    assert json.loads(output) == {"id": image.id, "names": [], "layers": list(image.layers)}


def test_a_work_directory_beside_the_upper_is_found(
    base: Image, directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build(directory / "upper", {})
    build(directory / "elsewhere", {"index": {}, "work": {}})
    os.symlink("elsewhere", directory / "upper.work")
    given: list[list[str | Path]] = [[], ["--work", directory / "elsewhere"], ["--userxattr"]]
    for more in given:
        assert run(capsys, "commit", directory / "upper", "--onto", "base:1", *more)[0] == 0


def test_a_squash_makes_an_image_of_fewer_layers(
    base: Image, store: StoreBuilder, capsys: pytest.CaptureFixture[str]
) -> None:
    status, output, said = run(capsys, "squash", "base:1", "--tag", "small:1", "-m", "all in one")
    assert (status, said) == (0, "")
    with store.opened() as repository:
        image = repository.find("small:1")
    assert output == f"{image.id[:19]}  small:1\n"
    assert len(image.layers) == 1
    assert image.config.history[-1].comment == "all in one"
    status, output, _ = run(capsys, "squash", "base:1", "--keep", "1", "--json")
    assert json.loads(output)["layers"][0] == base.layers[0]


@pytest.fixture
def mounted(upper: Path) -> Iterator[Path]:
    """The upper, as a mount has it."""
    descriptor = os.open(upper, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    yield upper
    os.close(descriptor)


def refuses(capsys: pytest.CaptureFixture[str], *words: str | Path, status: int = 1) -> str:
    """The one line that a command which fails says."""
    found, output, said = run(capsys, *words)
    assert (found, output) == (status, "")
    (line,) = said.splitlines()
    return line


def test_an_upper_that_is_mounted_is_refused(
    base: Image, mounted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refuses(capsys, "commit", mounted, "--onto", "base:1")
    assert line.endswith("is in use by another mount: unmount that one first")


def test_what_can_not_be_committed_or_squashed_is_one_line(
    base: Image, upper: Path, directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "there is no image none" in refuses(capsys, "commit", upper, "--onto", "none")
    assert "there is no image none" in refuses(capsys, "squash", "none")
    assert "can't be the name" in refuses(
        capsys, "commit", upper, "--onto", "base:1", "--tag", "Not a name"
    )
    assert "base:1 has 2 layers" in refuses(capsys, "squash", "base:1", "--keep", "2")
    none = directory / "none"
    assert refuses(capsys, "commit", none, "--onto", "base:1").endswith(
        f"{none}: No such file or directory"
    )
    assert refuses(capsys, "commit", upper, "--onto", "base:1", "--work", none).endswith(
        f"{none}: No such file or directory"
    )
    assert "--onto" in refuses(capsys, "commit", upper, status=2)
