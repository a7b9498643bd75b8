"""Commit and squash: what the new image says and shows. What a layer of changes holds, the tests of
packing tell.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from layerstore import layertar
from layerstore.committing import About, Made, commit, squash
from layerstore.digest import Digest
from layerstore.errors import StoreError
from layerstore.ingest import Tell
from layerstore.oci.documents import History, Platform, make_config
from layerstore.repository import Image, Repository
from tests.store.trees import names, shown
from tests.support import tars
from tests.support.layers import WHITEOUT, Directory, File, HardLink, Node, Tree, build, opaque
from tests.support.stores import StoreBuilder
from unionfs.model import BusyError
from unionfs.workdir import require_free

pytestmark = pytest.mark.usefixtures("nothing_left_open")

BASE = tars.tar(
    tars.directory("."),
    tars.directory("d"),
    tars.file("d/a", b"a"),
    tars.file("d/b", b"b"),
    tars.file("c", b"c"),
)
MORE = tars.tar(tars.whiteout("c"), tars.file("d/a", b"A"))


@pytest.fixture(autouse=True)
def epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")


@pytest.fixture
def base(store: StoreBuilder) -> Image:
    return store.image("base:1", [BASE, MORE])


class Upper:
    """An upper directory, committed onto an image."""

    def __init__(self, repository: Repository, path: Path) -> None:
        self._repository = repository
        self.path = path

    def commit(self, onto: Image, tree: Tree | Directory, *tags: str) -> Made:
        build(self.path, tree)
        return commit(self._repository, self.path, onto, About(tags))

    def tar(self, made: Made) -> bytes:
        return b"".join(layertar.tar(self._repository, made.image.layers[-1]))


@pytest.fixture
def upper(repository: Repository, tmp_path: Path) -> Upper:
    return Upper(repository, tmp_path / "upper")


def unchanged(entries: Tree) -> Directory:
    """A directory with the attributes that it has in the base."""
    return Directory(entries, mtime=tars.TIME * 10**9)


@contextlib.contextmanager
def opened(repository: Repository, image: Image) -> Iterator[dict[str, bytes]]:
    """The regular files that an image shows."""
    with contextlib.ExitStack() as stack:
        layers = repository.open_layers(image)
        for layer in layers:
            stack.callback(layer.close)
        yield {
            os.fsdecode(path): found.content
            for path, found in shown(layers).items()
            if found.content is not None
        }


# Commit


def test_a_commit_shows_the_changes_on_its_image(
    repository: Repository, base: Image, upper: Upper
) -> None:
    made = upper.commit(base, {"d": {"a": WHITEOUT, "n": "new"}, "c": "again"}, "mine:1")
    assert made.image.names == ("mine:1",)
    assert list(made.image.layers[:2]) == list(base.layers)
    with opened(repository, made.image) as files:
        assert files == {"d/b": b"b", "d/n": b"new", "c": b"again"}
    assert repository.find("base:1") == base


def test_no_mount_of_the_upper_begins_during_a_commit(
    repository: Repository, base: Image, upper: Upper
) -> None:
    refused = []

    class Watcher:
        def begin(self, what: str, total: int | None) -> Tell:
            with pytest.raises(BusyError) as error:
                require_free(os.fsencode(upper.path))
            refused.append(str(error.value))
            return lambda count: None

    build(upper.path, {"n": "new"})
    commit(repository, upper.path, base, About(), Watcher())
    assert refused == [f"{upper.path} is in use by another mount: unmount that one first"]
    require_free(os.fsencode(upper.path))


def test_a_commit_without_changes_is_one_more_layer_without_entries(
    repository: Repository, base: Image, upper: Upper
) -> None:
    made = upper.commit(base, unchanged({}))
    assert names(upper.tar(made)) == []
    assert len(made.image.layers) == 3
    with opened(repository, made.image) as files, opened(repository, base) as before:
        assert files == before


def test_a_commit_may_be_the_first_layer(
    repository: Repository, store: StoreBuilder, upper: Upper
) -> None:
    made = upper.commit(store.image("scratch:1", []), {"d": {"a": "new"}, "gone": WHITEOUT})
    assert names(upper.tar(made)) == ["./", "d/", "d/a"]
    with opened(repository, made.image) as files:
        assert files == {"d/a": b"new"}


def test_what_was_copied_up_and_is_the_same_is_left_out(base: Image, upper: Upper) -> None:
    same = File("A", mtime=tars.TIME * 10**9)
    made = upper.commit(base, unchanged({"d": unchanged({"a": same})}))
    assert names(upper.tar(made)) == []


def test_a_commit_keeps_history_and_config(store: StoreBuilder, upper: Upper) -> None:
    steps = [
        History(created_by="FROM"),
        History(created_by="ENV", empty_layer=True),
        History(created_by="RUN"),
    ]
    base = store.image("base:1", [BASE, MORE], steps)
    with store.opened() as repository:
        config = json.loads(base.raw) | {
            "config": {"Env": ["A=b"], "Labels": {"x": "y"}, "Cmd": ["sh"]},
            "author": "somebody",
            "variant": "v2",
            "os.version": "10",
            "docker_version": "27.0",
            "container_config": {"Cmd": ["build"]},
        }
        # As Go reads it.
        config["Created"] = config.pop("created", "2000-01-01T00:00:00Z")
        base = repository.add_image(json.dumps(config).encode())
        build(upper.path, {"x": "y"})
        about = About(created_by="by hand", comment="why")
        image = commit(repository, upper.path, base, about).image
    found = json.loads(image.raw)
    changed = {"Created", "created", "history", "rootfs"}
    for key in config.keys() - changed:
        assert found.pop(key) == config[key]
    assert found.keys() == changed - {"Created"}
    assert found["created"] == "2001-09-09T01:46:40Z"
    assert found["history"] == [
        {"created_by": "FROM"},
        {"created_by": "ENV", "empty_layer": True},
        {"created_by": "RUN"},
        {"created": "2001-09-09T01:46:40Z", "created_by": "by hand", "comment": "why"},
    ]
    assert image.steps[-1] == image.config.history[-1]


def test_who_commits_may_be_told(base: Image, upper: Upper, repository: Repository) -> None:
    build(upper.path, {})
    image = commit(repository, upper.path, base, About(author="me")).image
    assert image.config.author == image.config.history[-1].author == "me"


def test_a_history_that_does_not_fit_stays_one_step_a_layer(
    store: StoreBuilder, upper: Upper
) -> None:
    base = store.image("base:1", [BASE, MORE], [History(created_by="only one")])
    image = upper.commit(base, {"x": "y"}).image
    assert [step and step.comment for step in image.steps] == ["unknown", "unknown", ""]


def test_the_same_commit_is_the_same_image(
    repository: Repository, base: Image, upper: Upper, tmp_path: Path
) -> None:
    tree: Tree = {
        "m": File("x", xattrs={"user.a": b"1"}),
        "d": {"n": HardLink("m"), "a": opaque({})},
    }
    first = upper.commit(base, tree).image
    build(tmp_path / "again", tree)
    second = commit(repository, tmp_path / "again", base, About()).image
    assert first.id == second.id


@pytest.mark.parametrize("told", ["yesterday", "-1", "1.5", "9" * 30, "²"])
def test_a_time_that_is_none_is_told_before_anything_is_stored(
    repository: Repository,
    base: Image,
    upper: Upper,
    monkeypatch: pytest.MonkeyPatch,
    told: str,
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", told)
    with pytest.raises(StoreError, match=re.escape(f"$SOURCE_DATE_EPOCH is {told}: make it")):
        upper.commit(base, {"x": "y"})
    assert len(repository.layers()) == 2


@pytest.mark.parametrize("told", [None, ""])
def test_without_a_told_time_it_is_now(
    base: Image, upper: Upper, monkeypatch: pytest.MonkeyPatch, told: str | None
) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    if told is not None:
        monkeypatch.setenv("SOURCE_DATE_EPOCH", told)
    created = upper.commit(base, {}).image.config.created
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", created)


def test_sockets_are_left_out_and_told(base: Image, upper: Upper) -> None:
    socket = Node(stat.S_IFSOCK)
    made = upper.commit(base, unchanged({"s": socket, "d": unchanged({"t": socket}), "x": "y"}))
    assert sorted(made.left_out) == [b"d/t", b"s"]
    assert names(upper.tar(made)) == ["x"]


def test_an_upper_that_is_mounted_is_not_committed(
    repository: Repository, base: Image, upper: Upper
) -> None:
    build(upper.path, {"x": "y"})
    descriptor = os.open(upper.path, os.O_RDONLY)
    try:
        # As a mount does.
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(BusyError, match="is in use by another mount"):
            commit(repository, upper.path, base, About())
    finally:
        os.close(descriptor)
    assert len(repository.layers()) == 2


def test_an_upper_that_is_not_there_is_told(
    repository: Repository, base: Image, upper: Upper, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError, match="upper"):
        commit(repository, upper.path, base, About())
    build(upper.path, {})
    with pytest.raises(FileNotFoundError, match="elsewhere"):
        commit(repository, upper.path, base, About(), work=tmp_path / "elsewhere")


def test_names_that_no_image_can_have_leave_no_image(
    repository: Repository, base: Image, upper: Upper
) -> None:
    with pytest.raises(StoreError, match="can't be the name of an image"):
        upper.commit(base, {}, "Not a name")
    assert repository.images() == [base]


# Squash


def test_a_squashed_image_shows_the_same_in_one_layer(repository: Repository, base: Image) -> None:
    image = squash(repository, base, About(["small:1"], "squash")).image
    assert len(image.layers) == 1
    assert image.names == ("small:1",)
    assert [step.created_by for step in image.config.history] == ["squash"]
    with opened(repository, image) as files, opened(repository, base) as before:
        assert files == before == {"d/a": b"A", "d/b": b"b"}
    tar = b"".join(layertar.tar(repository, image.layers[0]))
    assert names(tar) == ["./", "d/", "d/a", "d/b"]


def test_layers_that_are_to_be_kept_are_kept_with_their_history(
    store: StoreBuilder, repository: Repository
) -> None:
    last = tars.tar(tars.file("e", b"e"))
    steps = [
        History(created_by="one"),
        History(created_by="ENV", empty_layer=True),
        History(created_by="two"),
        History(created_by="CMD", empty_layer=True),
        History(created_by="three"),
    ]
    base = store.image("base:1", [BASE, MORE, last], steps)
    image = squash(repository, base, About(created_by="squash"), keep=1).image
    assert len(image.layers) == 2
    assert image.layers[0] == base.layers[0]
    assert [step.created_by for step in image.config.history] == ["one", "ENV", "CMD", "squash"]
    with opened(repository, image) as files, opened(repository, base) as before:
        assert files == before
    tar = b"".join(layertar.tar(repository, image.layers[1]))
    assert sorted(names(tar)) == [".wh.c", "d/", "d/a", "e"]


@pytest.mark.parametrize("keep", [-1, 2, 3])
def test_fewer_layers_are_kept_than_there_are(
    repository: Repository, base: Image, keep: int
) -> None:
    with pytest.raises(StoreError, match="base:1 has 2 layers: keep fewer than that"):
        squash(repository, base, About(), keep=keep)


def test_an_image_whose_layers_are_gone_is_not_squashed(repository: Repository) -> None:
    config = make_config([Digest("sha256:" + "0" * 64)], [], Platform("amd64", "linux"))
    image = repository.add_image(config)
    with pytest.raises(StoreError, match="is not in the store"):
        squash(repository, image, About())
