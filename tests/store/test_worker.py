"""Layers that other processes read: as if we had, whatever goes wrong there."""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from layerstore import importing, leases, worker
from layerstore.adding import Wanted
from layerstore.digest import Digest, of_bytes
from layerstore.errors import InvalidContentError, LimitExceededError, StoreError
from layerstore.importing import Options, import_path
from layerstore.ingest import Ingested, Tell
from layerstore.limits import Limits
from layerstore.oci.streams import ExtentReader
from layerstore.repository import Repository
from layerstore.worker import Worker
from tests.support.stores import StoreBuilder
from tests.support.tars import file, tar
from tests.support.threads import waits_for_results

TARS = [tar(file(name, name.encode() * 5000)) for name in ("one", "two", "three")]


def nothing(_: int) -> None:
    pass


@pytest.fixture
def reader(tmp_path: Path) -> Callable[[bytes], ExtentReader]:
    """A reader of what stands somewhere in the middle of a file."""

    def opened(content: bytes) -> ExtentReader:
        (tmp_path / "file").write_bytes(b"before" + content + b"after")
        return ExtentReader(os.open(tmp_path / "file", os.O_RDONLY), 6, len(content))

    return opened


def wanted(content: bytes) -> Wanted:
    return Wanted(of_bytes(content), None, None, keep_blob=False)


def test_a_worker_adds_layer_after_layer(
    repository: Repository, reader: Callable[[bytes], ExtentReader], nothing_left_open: None
) -> None:
    told: list[int] = []
    with Worker(repository) as process:
        for content in TARS:
            with reader(content) as source:
                added = process.add(source, wanted(content), told.append)
            assert added.diff_id == added.digest == of_bytes(content)
            assert (added.size, added.new) == (len(content), True)
            # The lease came along, and holds the layer without that process.
            assert (
                os.fstat(added.lease).st_ino
                == os.stat(repository.paths.layer(added.diff_id)).st_ino
            )
            os.close(added.lease)
    assert sum(told) == sum(map(len, TARS))
    assert set(repository.layers()) == set(map(of_bytes, TARS))


def test_a_lease_outlives_the_worker(
    repository: Repository, reader: Callable[[bytes], ExtentReader]
) -> None:
    with Worker(repository) as process, reader(TARS[0]) as source:
        added = process.add(source, wanted(TARS[0]), nothing)
    directory = repository.paths.layer(added.diff_id)
    assert leases.take(directory) is None
    os.close(added.lease)
    taken = leases.take(directory)
    assert taken is not None
    os.close(taken)


def test_what_is_wrong_there_is_raised_here(
    repository: Repository, reader: Callable[[bytes], ExtentReader]
) -> None:
    with Worker(repository) as process:
        with reader(TARS[0][:2000]) as source, pytest.raises(InvalidContentError, match=r"\(one\)"):
            process.add(source, wanted(TARS[0]), nothing)
        # It goes on with the next.
        with reader(TARS[1]) as source:
            os.close(process.add(source, wanted(TARS[1]), nothing).lease)
    assert repository.layers() == [of_bytes(TARS[1])]


def test_limits_hold_there(
    store: StoreBuilder, reader: Callable[[bytes], ExtentReader], tmp_path: Path
) -> None:
    with (
        Repository(str(store.path), limits=Limits(bytes=100)) as repository,
        Worker(repository) as process,
        reader(TARS[0]) as source,
        pytest.raises(LimitExceededError, match="--limit bytes=N"),
    ):
        process.add(source, wanted(TARS[0]), nothing)


def test_an_error_of_the_system_keeps_its_number_and_file() -> None:
    error = worker._error(
        {"kind": "OSError", "errno": errno.ENOSPC, "text": "No space left", "file": "/store/x"}
    )
    assert isinstance(error, OSError)
    assert (error.errno, error.filename) == (errno.ENOSPC, "/store/x")


def test_a_worker_that_is_killed_is_told(
    repository: Repository, reader: Callable[[bytes], ExtentReader]
) -> None:
    with Worker(repository) as process:
        os.kill(process._process.pid, signal.SIGKILL)
        process._process.wait()
        with reader(TARS[0]) as source, pytest.raises(StoreError, match="has ended; import again"):
            process.add(source, wanted(TARS[0]), nothing)


def test_a_worker_ends_with_whoever_has_it(repository: Repository) -> None:
    with Worker(repository) as process:
        assert process._process.poll() is None
    assert process._process.returncode == 0


# Whole images


def test_an_image_of_large_layers_is_read_by_workers(
    store: StoreBuilder, directory: Path, monkeypatch: pytest.MonkeyPatch, nothing_left_open: None
) -> None:
    image = store.image("app:1", TARS, keep_blobs=True)
    archive = store.archive(directory / "app.tar", "app:1")
    jobs: list[Digest] = []
    add = Worker.add

    def counted(process: Worker, source: ExtentReader, layer: Wanted, tell: Tell) -> Ingested:
        jobs.append(layer.diff_id)
        return add(process, source, layer, tell)

    monkeypatch.setattr(Worker, "add", counted)
    monkeypatch.setattr(importing, "_LARGE", 1)
    monkeypatch.setattr(importing, "_AT_ONCE", 2)
    with Repository(str(directory / "other")) as other:
        (imported,) = import_path(other, archive, Options(keep_blobs=True))
        assert (imported.image.id, imported.new) == (image.id, 3)
        assert len(other.catalog.blobs()) == 3
        # All is there: nothing has to be read.
        (again,) = import_path(other, archive, Options(keep_blobs=True))
        assert again.new == 0
    assert sorted(jobs) == sorted(map(of_bytes, TARS))


def test_a_bad_layer_that_a_worker_reads_leaves_no_image(
    store: StoreBuilder, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.image("app:1", TARS, keep_blobs=True)
    archive = store.archive(directory / "app.tar", "app:1")
    monkeypatch.setattr(importing, "_LARGE", 1)
    monkeypatch.setattr(importing, "_AT_ONCE", 2)
    with Repository(str(directory / "other"), limits=Limits(bytes=8000)) as other:
        with pytest.raises(LimitExceededError, match="layer sha256:"):
            import_path(other, archive, Options())
        assert other.images() == []
        assert os.listdir(other.paths.temporary) == []


def test_who_interrupts_an_import_does_not_wait_for_workers(
    store: StoreBuilder, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.image("app:1", TARS[:2], keep_blobs=True)
    archive = store.archive(directory / "app.tar", "app:1")
    ended: list[str] = []
    first = iter([True])

    def waiting(process: Worker, *_: object) -> Ingested:
        if next(first, False):
            while not waits_for_results(threading.main_thread()):
                os.sched_yield()
            os.kill(os.getpid(), signal.SIGINT)
        # Nobody has asked it for anything, so nothing comes until it is ended.
        assert worker._receive(process._socket) == (None, [])
        ended.append("one")
        raise StoreError("it has ended")

    monkeypatch.setattr(Worker, "add", waiting)
    monkeypatch.setattr(importing, "_LARGE", 1)
    monkeypatch.setattr(importing, "_AT_ONCE", 2)
    with Repository(str(directory / "other")) as other:
        with pytest.raises(KeyboardInterrupt):
            import_path(other, archive, Options())
        assert other.images() == []
    assert ended
