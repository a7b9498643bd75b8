"""The repository: which image or layer a word means, and what is held."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from layerstore import leases
from layerstore.adding import add_layer
from layerstore.digest import of_bytes
from layerstore.errors import DamagedError, StoreError
from layerstore.ingest import Claim
from layerstore.limits import Limits
from layerstore.oci.documents import History
from layerstore.repository import Image, Repository
from tests.support import tars
from tests.support.stores import StoreBuilder
from unionfs.model import Entry

FIRST, SECOND = tars.tar(tars.file("a", b"1")), tars.tar(tars.file("a", b"2"))


class Four:
    """Images: two of one name in different places, one without a name, and one of several."""

    def __init__(self, store: StoreBuilder) -> None:
        self.app = store.image("app:1", [FIRST])
        self.here = store.image("registry.example/team/tool:1", [FIRST, SECOND])
        self.there = store.image("registry.example/other/tool:1", [SECOND])
        self.nameless = store.image(None, [SECOND, FIRST])


@pytest.fixture
def four(store: StoreBuilder) -> Four:
    return Four(store)


def manifest_of(repository: Repository, image: Image) -> str:
    ((manifest, _),) = repository.catalog.manifests(image.id)
    return manifest


# Images


def test_a_name_means_its_image(repository: Repository, four: Four) -> None:
    assert repository.find("app:1") == four.app
    assert repository.find("registry.example/team/tool:1") == four.here


def test_a_tag_that_is_left_out_is_latest(store: StoreBuilder, repository: Repository) -> None:
    image = store.image("app", [FIRST])
    assert image.names == ("app:latest",)
    assert repository.find("app") == repository.find("app:latest") == image


def test_the_end_of_a_name_means_an_image_if_only_one_has_it(
    repository: Repository, four: Four
) -> None:
    assert repository.find("team/tool:1") == four.here
    with pytest.raises(StoreError, match="tool:1 may be any of 2 images; write more of it"):
        repository.find("tool:1")
    for no_end in ("ool:1", "eam/tool:1", "tool", "registry.example/tool:1"):
        assert not repository.has(no_end)


def test_a_whole_name_counts_before_the_end_of_another(
    store: StoreBuilder, repository: Repository, four: Four
) -> None:
    tool = store.image("tool:1", [SECOND, SECOND])
    assert repository.find("tool:1") == tool


def test_an_id_or_its_beginning_means_an_image(repository: Repository, four: Four) -> None:
    image = four.nameless
    for word in (image.id, image.id[7:], image.id[:19], image.id[7:19], f"any@{image.id}"):
        assert repository.find(word) == image
    for word in (image.id[:10], image.id[7:10], image.id + "0", image.id.upper()):
        assert not repository.has(word)


def test_the_beginning_of_several_ids_means_none(
    repository: Repository, four: Four, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [four.app.id, four.here.id]
    monkeypatch.setattr(repository.catalog, "images_beginning", lambda digits: ids)
    with pytest.raises(StoreError, match="abcd may be any of 2"):
        repository.find("abcd")


def test_a_name_counts_before_the_beginning_of_an_id(
    store: StoreBuilder, repository: Repository, four: Four
) -> None:
    word = four.nameless.id[7:19]
    named = store.image(word, [FIRST, FIRST])
    assert repository.find(word) == named
    assert repository.find(f"sha256:{word}") == four.nameless


def test_a_manifest_means_its_image(repository: Repository, four: Four) -> None:
    manifest = manifest_of(repository, four.here)
    assert repository.find(manifest) == repository.find(f"tool@{manifest}") == four.here


def test_what_means_nothing_is_told(repository: Repository, four: Four) -> None:
    with pytest.raises(StoreError, match=r"there is no image x y in the store /.*/store; layer"):
        repository.find("x y")
    for word in ("", "/etc", "..", "app:2", "sha256:" + "0" * 64, "\0"):
        assert not repository.has(word)


def test_the_newest_image_is_the_last(repository: Repository, four: Four) -> None:
    assert repository.images() == [four.app, four.here, four.there, four.nameless]


def test_a_name_moves_to_the_image_that_is_added_with_it(
    store: StoreBuilder, repository: Repository, four: Four
) -> None:
    other = store.image("app:1", [SECOND, SECOND])
    assert repository.find("app:1") == other
    assert repository.image(four.app.id).names == ()


def test_an_image_with_a_wrong_name_is_not_added(repository: Repository, four: Four) -> None:
    with pytest.raises(StoreError, match="can't be the name"):
        repository.add_image(four.app.raw + b" ", None, ["new:1", "Not a name"])
    assert len(repository.images()) == 4
    assert not repository.has("new:1")


def test_names_go_all_or_none(repository: Repository, four: Four) -> None:
    with pytest.raises(StoreError, match=r"no image in the store .* is called none"):
        repository.untag(["app:1", "none"])
    assert repository.has("app:1")
    repository.untag(["app:1", "registry.example/team/tool:1"])
    assert [image.names for image in repository.images()][:2] == [(), ()]


def test_what_was_removed_is_gone_with_all_its_names(repository: Repository, four: Four) -> None:
    assert repository.remove("app:1") == [four.app]
    assert not repository.has("app:1")
    assert not repository.has(four.app.id)
    with pytest.raises(StoreError, match="is not in the store"):
        repository.image(four.app.id)
    assert len(repository.layers()) == 2


def test_images_are_removed_all_or_none(repository: Repository, four: Four) -> None:
    with pytest.raises(StoreError, match="there is no image nothing"):
        repository.remove("app:1", "nothing")
    assert repository.find("app:1") == four.app
    before = len(repository.images())
    assert repository.remove("app:1", four.app.id) == [four.app]
    assert len(repository.images()) == before - 1


@pytest.mark.parametrize("limits", [Limits(layers=1), Limits(document=10)])
def test_limits_are_for_what_comes_in(store: StoreBuilder, four: Four, limits: Limits) -> None:
    with Repository(str(store.path), limits=limits) as repository:
        assert repository.find("team/tool:1") == four.here


def test_a_step_belongs_to_a_layer_only_if_all_do(store: StoreBuilder) -> None:
    empty = History(created_by="ENV", empty_layer=True)
    one, two = History(created_by="one"), History(created_by="two")
    fits = store.image("fits", [FIRST, SECOND], [empty, one, empty, two])
    assert list(fits.steps) == [one, two]
    for number, history in enumerate(([one], [], [one, two, one])):
        assert list(store.image(f"{number}", [FIRST, SECOND], history).steps) == [None, None]


# Layers


def test_a_layer_is_found_by_the_beginning_of_its_digest(
    repository: Repository, store: StoreBuilder
) -> None:
    layers = [store.layer(tar) for tar in (FIRST, SECOND)]
    assert repository.layers() == sorted(layers)
    for diff_id in layers:
        assert repository.find_layer(diff_id) == repository.find_layer(diff_id[:15]) == diff_id
    for word in ("app:1", "abc", "0000000000", ""):
        assert repository.find_layer(word) is None


def test_the_layers_of_an_image_are_held_until_they_are_closed(
    repository: Repository, four: Four
) -> None:
    opened = repository.open_layers(four.here)
    assert [layer.identity for layer in opened] == list(four.here.layers)
    assert [layer.describe()["created_by"] for layer in opened] == ["step 1", "step 2"]
    for layer in opened:
        assert leases.take(repository.paths.layer(layer.identity)) is None
        layer.close()
        descriptor = leases.take(repository.paths.layer(layer.identity))
        assert descriptor is not None
        os.close(descriptor)


def test_layers_stay_open_when_the_store_is_closed(store: StoreBuilder, four: Four) -> None:
    with store.opened() as repository:
        (layer,) = repository.open_layers(four.app)
    with contextlib.closing(layer):
        assert isinstance(layer.lookup(layer.root(), b"a"), Entry)


@pytest.mark.usefixtures("nothing_left_open")
def test_one_layer_that_does_not_open_closes_the_others(repository: Repository, four: Four) -> None:
    Path(repository.paths.layer(four.here.layers[1]), "index.sqlite").unlink()
    with pytest.raises(DamagedError, match=f"layer {four.here.layers[1]} is damaged"):
        repository.open_layers(four.here)


def test_what_is_not_there_is_not_held(repository: Repository) -> None:
    assert repository.hold_layer("sha256:" + "0" * 64) is None
    assert repository.kept_blob("sha256:" + "0" * 64) is None


def test_layers_of_one_digest_wait_for_each_other(repository: Repository, four: Four) -> None:
    with repository.turn(four.app.layers[0]), repository.turn(four.there.layers[0]):
        pass


@pytest.fixture
def lease(repository: Repository) -> Iterator[int]:
    added = add_layer(repository, io.BytesIO(FIRST), Claim(), lambda _: None)
    assert added.new
    assert added.digest == added.diff_id == of_bytes(FIRST)
    yield added.lease
    os.close(added.lease)


@pytest.mark.usefixtures("lease")
def test_a_layer_that_was_added_is_held(repository: Repository) -> None:
    assert leases.take(repository.paths.layer(of_bytes(FIRST))) is None


# The store


@pytest.mark.usefixtures("nothing_left_open")
def test_a_store_that_is_closed_leaves_nothing_open(store: StoreBuilder) -> None:
    with store.opened(), store.opened():
        pass


@pytest.mark.usefixtures("nothing_left_open")
def test_a_store_is_not_made_unless_asked_for(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no layer store at"):
        Repository(str(tmp_path / "none"), create=False)


def test_the_default_store_is_the_one_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAYERSTORE", str(tmp_path / "mine"))
    with Repository() as repository:
        assert repository.paths.root == str(tmp_path / "mine")
