"""The Python interface: each method's example is run, in a store of its own."""

import doctest
import inspect
import io
import os
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import layerstore
from layerstore.cli.main import layerstore as command
from layerstore.committing import About
from layerstore.exporting import Format
from layerstore.oci.documents import History
from layerstore.store import Store
from tests.support import tars
from tests.support.stores import StoreBuilder
from tests.support.tars import directory, file, tar

METHODS = sorted(
    name
    for name, method in inspect.getmembers(Store, inspect.isfunction)
    if not name.startswith("_")
)


@pytest.fixture
def path(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with an image, as the examples want it, in the working directory."""
    monkeypatch.chdir(directory)
    base = tar(tars.directory("etc"), file("etc/motd", b"hi!"))
    top = tar(tars.directory("etc"), file("etc/motd", b"hello"))
    steps = [History(created_by="COPY motd /etc"), History(created_by="RUN greet")]
    StoreBuilder(directory / "store").image("app:1", [base, top], steps)
    (directory / "root.tar").write_bytes(tar(file("a", b"content")))
    (directory / "upper" / "etc").mkdir(parents=True)
    (directory / "upper" / "etc" / "motd").write_text("changed")
    os.utime(directory / "upper", (tars.TIME, tars.TIME))
    return directory / "store"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with Store(path) as opened:
        yield opened


@pytest.mark.parametrize("method", METHODS)
def test_the_example_of_a_method_is_right(store: Store, path: Path, method: str) -> None:
    text = inspect.getdoc(getattr(Store, method)) or ""
    names = {"Store": Store, "About": About, "Format": Format}
    example = doctest.DocTestParser().get_doctest(
        text, {**names, "store": store, "path": path}, method, None, None
    )
    assert example.examples
    said = io.StringIO()
    doctest.DocTestRunner().run(example, out=said.write)
    assert said.getvalue() == ""


def test_the_example_of_the_store_itself_is_right(path: Path) -> None:
    example = doctest.DocTestParser().get_doctest(
        inspect.getdoc(Store) or "", {"path": path}, "Store", None, None
    )
    said = io.StringIO()
    doctest.DocTestRunner().run(example, out=said.write)
    assert said.getvalue() == ""


def test_it_stands_in_the_package() -> None:
    assert layerstore.Store is Store
    with pytest.raises(AttributeError):
        _ = layerstore.nothing


def test_all_that_the_command_does_is_here() -> None:
    verbs = set(command.list_commands(click.Context(command))) - {"import"}
    assert verbs - set(METHODS) == set()
    assert {"import_", "wasted_files"} <= set(METHODS)


def test_a_stream_can_be_imported(store: Store) -> None:
    (imported,) = store.import_(io.BytesIO(tar(directory("d"))), tags=["stream:1"])
    assert imported.image.names == ("stream:1",)


def test_an_upper_s_marks_may_be_those_of_a_user(store: Store, directory: Path) -> None:
    (directory / "upper" / "new").mkdir()
    os.setxattr(directory / "upper" / "new", "user.overlay.redirect", b"etc")
    found = [
        [change.path for change in store.diff("app:1", "./upper", userxattr=userxattr)]
        for userxattr in (False, True)
    ]
    assert [b"/new/motd" in paths for paths in found] == [False, True]
    with pytest.raises(FileNotFoundError, match="elsewhere"):
        list(store.diff("app:1", "./upper", work="elsewhere"))
