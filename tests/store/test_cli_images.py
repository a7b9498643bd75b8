"""The command: its frame, and the commands that bring images in and out, list and name them."""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import signal
import stat
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from layerstore import paths
from layerstore.cli.main import layerstore, main
from layerstore.cli.process import prepared
from layerstore.exporting import Format
from layerstore.oci.documents import History
from layerstore.repository import Repository
from tests.support import tars
from tests.support.archives import sha256
from tests.support.command import SECONDS
from tests.support.layers import Node, build
from tests.support.stores import StoreBuilder
from tests.support.unprivileged import ME, Somebody

A, B = (tars.tar(tars.file(name, name.encode() * 5000)) for name in "ab")
PROGRAM = str(Path(sys.executable).with_name("layerstore"))


class Command:
    """`layerstore --store STORE`, in this process."""

    def __init__(self, store: Path, capture: pytest.CaptureFixture[str]) -> None:
        self._store = store
        self._capture = capture

    def __call__(self, *words: str | Path) -> str:
        """Run it and expect success without a word of warning; answers its output."""
        output, said = self.warns(*words)
        assert said == ""
        return output

    def warns(self, *words: str | Path) -> tuple[str, str]:
        """Run it and expect success; answers output and what was said."""
        self._capture.readouterr()
        status = main(["--store", str(self._store), *map(str, words)])
        output, said = self._capture.readouterr()
        assert status == 0, said
        return output, said

    def json(self, *words: str | Path) -> Any:
        return json.loads(self(*words, "--json"))

    def fails(self, *words: str | Path, status: int = 1) -> str:
        """Run it and expect that status and one line; answers the line."""
        self._capture.readouterr()
        assert main(["--store", str(self._store), *map(str, words)]) == status
        output, said = self._capture.readouterr()
        assert output == ""
        (line,) = said.splitlines()
        assert line.startswith("layerstore: ")
        return line


@pytest.fixture
def command(store: StoreBuilder, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(store.path, capsys)


def program(
    *words: str | Path, store: Path | None = None, **more: Any
) -> subprocess.CompletedProcess[bytes]:
    """Run it as a process of its own."""
    where = [] if store is None else ["--store", str(store)]
    return subprocess.run(
        [PROGRAM, *where, *words], capture_output=True, timeout=SECONDS, check=False, **more
    )


# The frame


def every_command() -> list[str]:
    return sorted(layerstore.list_commands(click.Context(layerstore)))


@pytest.mark.parametrize("name", every_command())
def test_the_help_of_every_command_has_an_example(
    command: Command, store: StoreBuilder, name: str
) -> None:
    output = command(name, "--help")
    assert f"Usage: layerstore {name} " in output
    assert "Example" in output
    assert f"  layerstore {name}" in output
    assert output == command(name, "-h")
    assert not store.path.exists()


def test_the_command_tells_its_commands_and_its_version(command: Command) -> None:
    output = command("--help")
    for name in every_command():
        assert f"  {name} " in output
    assert command("--version").startswith("layerstore ")


@pytest.mark.parametrize(
    "words",
    [
        ["none"],
        ["images", "--none"],
        ["images", "more"],
        ["import"],
        ["export", "only-one"],
        ["export", "a", "b", "--format", "none"],
        ["export", "a", "b", "--compression", "xz"],
        ["export", "a", "-", "--format", "dir"],
        ["export", "a", "b", "--format", "dir", "--compression", "zstd"],
        ["squash", "a", "--keep", "x"],
        ["squash", "a", "--keep", "-1"],
        ["--store", "", "images"],
        ["--limit", "none=5", "images"],
        ["--limit", "bytes", "images"],
        ["--limit", "bytes=", "images"],
        ["--limit", "bytes=-1", "images"],
        ["--limit", "bytes=5G", "images"],
        ["--limit", "bytes=" + "9" * 5000, "images"],
    ],
    ids=lambda words: " ".join(words)[:30],
)
def test_a_wrong_command_line_is_one_line_that_leads_to_help(
    command: Command, store: StoreBuilder, words: list[str]
) -> None:
    assert "--help)" in command.fails(*words, status=2)
    assert not store.path.exists()


@pytest.mark.parametrize(
    ("name", "usage"),
    [("tag", "IMAGE NAME..."), ("untag", "NAME..."), ("rm", "IMAGE..."), ("du", "[IMAGE...]")],
)
def test_the_help_tells_what_may_be_several(command: Command, name: str, usage: str) -> None:
    assert command(name, "--help").startswith(f"Usage: layerstore {name} [OPTIONS] {usage}\n")


def test_the_help_tells_the_limits(command: Command) -> None:
    assert " bytes=274877906944, ratio=2000, " in " ".join(command("--help").split())


def test_a_limit_holds_for_what_comes_in(
    command: Command, store: StoreBuilder, directory: Path
) -> None:
    (directory / "layer").write_bytes(A)
    line = command.fails("--limit", "bytes=1000", "import", directory / "layer")
    assert "more than 1000 bytes" in line
    assert "--limit bytes=N" in line
    command("--limit", "bytes=20000", "import", directory / "layer")


def test_the_environment_names_a_store(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    layer = str(build(directory / "tree", {"f": "x"}))
    monkeypatch.setenv("LAYERSTORE", str(directory / "named"))
    assert main(["import", layer]) == 0
    assert (directory / "named" / "format").exists()
    monkeypatch.chdir(directory)
    monkeypatch.setenv("LAYERSTORE", "relative")
    assert main(["images"]) == 1
    assert "$LAYERSTORE is relative: make it an absolute path" in capsys.readouterr().err
    assert not (directory / "relative").exists()
    assert main(["--store", "relative", "import", layer]) == 0
    assert (directory / "relative" / "format").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["images"],
        ["layers"],
        ["history", "a"],
        ["tag", "a", "b"],
        ["untag", "a"],
        ["rm", "a"],
        ["export", "a", "-"],
        ["commit", "upper", "--onto", "a"],
        ["squash", "a"],
        ["ls", "a"],
        ["tree", "a"],
        ["cat", "a:/b"],
        ["diff", "a", "b"],
        ["blame", "a", "b"],
        ["du"],
        ["files", "a"],
        ["gc"],
        ["check"],
        ["check", "--repair"],
    ],
    ids=" ".join,
)
def test_only_an_import_makes_a_store_of_a_name_that_may_be_mistyped(
    command: Command, directory: Path, words: list[str]
) -> None:
    line = f"there is no layer store at {directory}/store; layerstore import makes it"
    assert command.fails(*words) == f"layerstore: {line}"
    assert not (directory / "store").exists()


def test_the_store_that_nobody_named_is_empty_at_first(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("LAYERSTORE", raising=False)
    monkeypatch.setattr(paths, "default", lambda: str(directory / "default"))
    assert main(["images", "--json"]) == 0
    assert capsys.readouterr() == ("[]\n", "")


def test_a_directory_that_is_no_store_is_left_alone(directory: Path, command: Command) -> None:
    (directory / "store").mkdir()
    (directory / "store" / "mine").touch()
    layer = build(directory / "tree", {"f": "x"})
    assert "is not empty and no layer store" in command.fails("import", layer)
    assert os.listdir(directory / "store") == ["mine"]


def test_an_error_of_the_system_is_one_line_with_the_path(
    command: Command, directory: Path
) -> None:
    line = command.fails("import", directory / "none\n")
    assert line.endswith(f"{directory}/none\\x0a: No such file or directory")


def test_a_name_of_any_bytes_is_shown_on_one_line(command: Command, directory: Path) -> None:
    tar = tars.tar(tars.file(b"/\x1b[31m\xff\n", b"x"))
    (directory / "layer").write_bytes(tar)
    line = command.fails("import", directory / "layer")
    assert r"\x1b[31m\xff\x0a" in line
    assert "its name is absolute" in line


def test_who_reads_no_more_ends_the_command_silently(store: StoreBuilder) -> None:
    for number in range(3):
        store.image(f"team/app:{number}", [A])
    for words in (["images"], ["images", "--json"], ["export", "app:1", "-"]):
        reading, writing = os.pipe()
        os.close(reading)
        done = subprocess.run(
            [PROGRAM, "--store", store.path, *words],
            stdout=writing,
            stderr=subprocess.PIPE,
            timeout=SECONDS,
            check=False,
        )
        os.close(writing)
        assert (done.returncode, done.stderr) == (141, b"")


def test_output_that_finds_no_room_is_an_error(store: StoreBuilder) -> None:
    store.image("app:1", [A])
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [PROGRAM, "--store", store.path, "images"],
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=SECONDS,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == b"layerstore: No space left on device\n"


@pytest.mark.parametrize("words", ["images", "ls app:1", "cat app:1:/a", "export app:1 -"])
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-"])
def test_streams_may_be_closed(store: StoreBuilder, closed: str, words: str) -> None:
    store.image("app:1", [A])
    done = subprocess.run(
        ["sh", "-c", f'"$@" {closed}', "sh", PROGRAM, "--store", store.path, *words.split()],
        capture_output=True,
        timeout=SECONDS,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_names_are_shown_in_any_encoding(store: StoreBuilder) -> None:
    store.image("app:1", [tars.tar(tars.file("é", b""))])
    for word in ("ls", "tree", "files"):
        done = program(
            word, "app:1", store=store.path, env={**os.environ, "PYTHONIOENCODING": "ascii"}
        )
        assert (done.returncode, done.stderr) == (0, b"")
        assert rb"\xe9" in done.stdout


def test_without_a_command_all_commands_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    output, said = capsys.readouterr()
    assert (output, said.splitlines()[0]) == ("", "Usage: layerstore [OPTIONS] COMMAND [ARGS]...")


def test_an_import_of_closed_standard_input_is_an_error(store: StoreBuilder) -> None:
    done = subprocess.run(
        ["sh", "-c", '"$@" <&-', "sh", PROGRAM, "--store", store.path, "import", "-"],
        capture_output=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == b"layerstore: standard input is closed\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_an_import_from_a_pipe_that_gives_nothing(
    store: StoreBuilder, number: signal.Signals
) -> None:
    with subprocess.Popen(
        [PROGRAM, "--store", store.path, "import", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        # What follows the second is waited for by a thread.
        process.stdin.write(A[:1024])
        process.stdin.flush()
        while not list(store.path.glob("tmp/*/layer/recipe")):
            assert process.poll() is None
            os.sched_yield()
        process.send_signal(number)
        assert process.wait(SECONDS) == 128 + number
        assert process.stderr is not None
        assert process.stderr.read().strip() == b""
    assert os.listdir(store.path / "tmp") == []


FORMS = ["oci", "oci-archive", "layer", "dir"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("parent", "reason"), [("none", "No such file or directory"), ("file", "Not a directory")]
)
def test_a_target_without_a_directory_to_be_in_is_told_by_that(
    command: Command, store: StoreBuilder, directory: Path, form: str, parent: str, reason: str
) -> None:
    store.image("app:1", [A])
    (directory / "file").touch()
    line = command.fails("export", "app:1", directory / parent / "out", "--format", form)
    assert line == f"layerstore: {directory / parent}: {reason}"


@pytest.mark.parametrize("form", FORMS)
def test_a_target_may_have_the_longest_name(
    command: Command, store: StoreBuilder, directory: Path, form: str
) -> None:
    store.image("app:1", [A])
    command("export", "app:1", directory / ("n" * 255), "--format", form)
    assert sorted(os.listdir(directory)) == ["n" * 255, "store"]


@pytest.mark.parametrize("form", FORMS)
def test_a_signal_leaves_nothing_of_an_export(
    command: Command,
    store: StoreBuilder,
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    form: str,
) -> None:
    store.image("app:1", [tars.tar(tars.file("file", b"x" * 100))])
    (directory / "here").mkdir()
    pread = os.pread

    def ended(*words: int) -> bytes:
        os.kill(os.getpid(), signal.SIGTERM)
        return pread(*words)

    monkeypatch.setattr(os, "pread", ended)
    monkeypatch.setattr(os, "copy_file_range", ended)
    words = ["--store", str(store.path), "export", "app:1", str(directory / "here" / "out")]
    assert main([*words, "--format", form]) == 143
    assert os.listdir(directory / "here") == []
    assert capsys.readouterr() == ("", "")


def test_a_signal_that_is_ignored_stays_so(store: StoreBuilder) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with prepared():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


# Import


def test_an_import_tells_what_came_in(
    command: Command, store: StoreBuilder, directory: Path
) -> None:
    image = store.image("app:1", [A, B])
    archive = store.archive(directory / "app.tar", "app:1")
    assert command("import", archive) == f"{image.id[:19]}  app:1  (2 layers, 0 new)\n"
    assert command.json("import", archive, "--tag", "other:1") == [
        {"id": image.id, "names": ["app:1", "other:1"], "new_layers": 0}
    ]
    moved = store.image("app:1", [A])
    _, said = command.warns("import", archive, "--json")
    assert said == f"layerstore: app:1 was {moved.id[:19]} before\n"
    other = Command(directory / "other", command._capture)
    assert other("import", archive).endswith("  app:1  (2 layers, 2 new)\n")


def test_an_image_without_a_name_is_told_how_to_get_one(command: Command, directory: Path) -> None:
    (directory / "layer").write_bytes(A)
    output = command("import", directory / "layer")
    assert output.endswith("no name; give it one with layerstore tag  (1 layer, 1 new)\n")


def test_a_wrong_name_is_told_before_anything_is_read(
    command: Command, store: StoreBuilder, directory: Path
) -> None:
    (directory / "layer").write_bytes(A)
    line = command.fails("import", directory / "layer", "--tag", "Not a name")
    assert "Not a name can't be the name of an image" in line
    assert not store.path.exists()


def test_what_is_wrong_in_a_source_is_told_with_its_name(command: Command, directory: Path) -> None:
    (directory / "layer").write_bytes(A[:2000])
    line = command.fails("import", directory / "layer")
    assert line.startswith(f"layerstore: {directory}/layer: entry 1 (a): ")


def test_standard_input_is_a_source(store: StoreBuilder, directory: Path) -> None:
    image = store.image("app:1", [A])
    for kind in (Format.OCI_ARCHIVE, Format.DOCKER_ARCHIVE):
        archive = store.archive(directory / kind.value, "app:1", kind=kind)
        done = program("import", "-", store=directory / f"other {kind}", input=archive.read_bytes())
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout.decode() == f"{image.id[:19]}  app:1  (1 layer, 1 new)\n"
    done = program("import", "-", store=store.path, input=b"x" * 2000)
    assert done.returncode == 1
    assert done.stderr.startswith(b"layerstore: standard input: it can't be read as a tar")


def test_sockets_are_told(command: Command, directory: Path) -> None:
    build(directory / "root", {"s": Node(stat.S_IFSOCK), "file": "x"})
    _, said = command.warns("import", directory / "root")
    assert said == "layerstore: left out: /s (no layer has a socket, or the store itself, in it)\n"


# Export


@pytest.mark.parametrize("kind", ["oci-archive", "docker-archive"])
def test_an_archive_goes_to_a_file_or_to_standard_output(
    command: Command, store: StoreBuilder, directory: Path, kind: str
) -> None:
    store.image("app:1", [A, B])
    assert command("export", "app:1", directory / "out", "--format", kind) == ""
    done = program("export", "app:1", "-", "--format", kind, store=store.path)
    assert done.returncode == 0
    assert done.stdout == (directory / "out").read_bytes()
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        assert archive.getnames()


def test_blobs_that_are_made_anew_are_told_unless_that_was_asked_for(
    command: Command, store: StoreBuilder, directory: Path
) -> None:
    image = store.image("app:1", [A], keep_blobs=True)
    archive = store.archive(directory / "app.tar", "app:1")
    manifest = json.loads(_manifest(archive))
    with store.opened() as repository, repository.catalog.changing():
        # As if another program had compressed it.
        manifest["layers"][0]["digest"] = sha256(b"other")
        content = json.dumps(manifest).encode()
        ((known, _),) = repository.catalog.manifests(image.id)
        repository.catalog.remove_manifest(known)
        repository.catalog.add_manifest(sha256(content), image.id, content)
    _, said = command.warns("export", "app:1", directory / "out")
    assert said.startswith("layerstore: 1 layer compressed anew: ")
    assert command("export", "app:1", directory / "out", "--compression", "zstd") == ""


def _manifest(archive: Path) -> bytes:
    with tarfile.open(archive) as files:
        index = files.extractfile("index.json")
        assert index is not None
        digest = json.load(index)["manifests"][0]["digest"]
        found = files.extractfile(f"blobs/sha256/{digest[7:]}")
        assert found is not None
        return found.read()


def test_one_layer_is_named_by_its_digest_or_by_an_image_that_has_no_other(
    command: Command, store: StoreBuilder, directory: Path
) -> None:
    store.image("one:1", [A])
    store.image("two:1", [A, B])
    out = directory / "out"
    for word, content in (("one:1", A), (sha256(A), A), (sha256(B)[7:19], B)):
        command("export", word, out, "--format", "layer")
        assert out.read_bytes() == content
    line = command.fails("export", "two:1", out, "--format", "layer")
    assert f"two:1 has 2 layers; name one: {sha256(A)[:19]}, {sha256(B)[:19]}" in line
    command.fails("export", "one:1", "two:1", out, "--format", "layer", status=2)


def test_a_tree_is_of_one_image(command: Command, store: StoreBuilder, directory: Path) -> None:
    store.image("a:1", [A])
    store.image("b:1", [B])
    command("export", "a:1", directory / "root", "--format", "dir")
    assert (directory / "root" / "a").read_bytes() == b"a" * 5000
    command.fails("export", "a:1", "b:1", directory / "other", "--format", "dir", status=2)
    assert not (directory / "other").exists()


def test_an_export_of_what_is_not_there_leaves_nothing(
    command: Command, store: StoreBuilder, directory: Path
) -> None:
    store.image("a:1", [A])
    line = command.fails("export", "a:1", "b:1", directory / "out")
    assert "there is no image b:1" in line
    assert not (directory / "out").exists()


# Lists


def test_images_are_listed_by_their_names(command: Command, store: StoreBuilder) -> None:
    store.opened().close()
    assert command("images").split() == ["NAME", "IMAGE", "LAYERS", "SIZE", "ADDED"]
    assert command.json("images") == []
    first = store.image("app:1", [A, B])
    second = store.image(None, [A])
    with store.opened() as repository:
        repository.add_image(first.raw, None, ["app:2"])
    lines = command("images").splitlines()
    assert [line.split()[:5] for line in lines[1:]] == [
        ["app:1", first.id[:19], "2", "13.0", "KiB"],
        ["app:2", first.id[:19], "2", "13.0", "KiB"],
        ["<none>", second.id[:19], "1", "6.5", "KiB"],
    ]
    found = command.json("images")
    assert [item["names"] for item in found] == [["app:1", "app:2"], []]
    assert found[0]["layers"] == list(first.layers)
    assert found[0]["size"] == len(A) + len(B)
    assert found[0]["platform"] == "linux/amd64"


def test_layers_are_listed_with_their_images(command: Command, store: StoreBuilder) -> None:
    store.opened().close()
    assert command.json("layers") == []
    store.image("app:1", [A, B, A])
    store.image("base:1", [A])
    alone = store.layer(tars.tar())
    found = {item["diff_id"]: item for item in command.json("layers")}
    assert found[sha256(A)] == {
        "diff_id": sha256(A),
        "size": len(A),
        "entries": 1,
        "images": ["app:1", "base:1"],
    }
    assert found[alone]["images"] == []
    lines = command("layers").splitlines()
    assert lines[0].split() == ["LAYER", "SIZE", "ENTRIES", "IMAGES"]
    assert f"{alone[:19]}" in {line.split()[0] for line in lines}


@pytest.mark.parametrize("damage", [os.unlink, lambda path: os.truncate(path, 100)])
def test_one_damaged_layer_hides_no_other(
    command: Command, store: StoreBuilder, damage: Callable[[Path], None]
) -> None:
    store.image("app:1", [A, B])
    store.image("base:1", [A])
    with store.opened() as repository:
        damage(Path(repository.paths.layer(sha256(B)), "index.sqlite"))
    assert [item["size"] for item in command.json("images")] == [None, len(A)]
    assert {item["diff_id"]: item["size"] for item in command.json("layers")} == {
        sha256(A): len(A),
        sha256(B): None,
    }
    assert " ? " in command("images")
    assert " ? " in command("layers")


def test_the_history_has_each_step_with_its_layer(command: Command, store: StoreBuilder) -> None:
    steps = [
        History(created="2001-01-01T00:00:00Z", created_by="COPY a\n/"),
        History(created_by="ENV", empty_layer=True),
        History(comment="merged"),
    ]
    store.image("app:1", [A, B], steps)
    found = command.json("history", "app:1")
    assert [step["layer"] for step in found] == [sha256(A), None, sha256(B)]
    lines = [line.split() for line in command("history", "app:1").splitlines()]
    assert lines == [
        ["LAYER", "CREATED", "STEP"],
        [sha256(A)[:19], "2001-01-01T00:00:00Z", "COPY", r"a\x0a/"],
        ["-", "-", "ENV"],
        [sha256(B)[:19], "-", "merged"],
    ]


def test_a_history_that_does_not_fit_gives_no_layer_to_any_step(
    command: Command, store: StoreBuilder
) -> None:
    store.image("app:1", [A, B], [History(created_by="only one")])
    found = command.json("history", "app:1")
    assert [(step["layer"], step["created_by"]) for step in found] == [
        (None, "only one"),
        (sha256(A), ""),
        (sha256(B), ""),
    ]
    assert "there is no image none" in command.fails("history", "none")


# Names


def names(store: StoreBuilder) -> dict[str, str]:
    with store.opened() as repository:
        return {name: image.id for image in repository.images() for name in image.names}


def test_names_come_move_and_go(command: Command, store: StoreBuilder) -> None:
    a, b = store.image("a:1", [A]), store.image("b:1", [B])
    output, said = command.warns("tag", "a:1", "c", "b:1")
    assert (output, said) == ("", f"layerstore: b:1 was {b.id[:19]} before\n")
    assert names(store) == {"a:1": a.id, "b:1": a.id, "c:latest": a.id}
    assert command("tag", b.id[7:19], "d:1") == ""
    assert command("untag", "c", "d:1") == ""
    assert names(store) == {"a:1": a.id, "b:1": a.id}
    assert len(command.json("images")) == 2


def test_a_wrong_name_changes_nothing(command: Command, store: StoreBuilder) -> None:
    store.image("a:1", [A])
    before = names(store)
    assert "can't be the name" in command.fails("tag", "a:1", "ok:1", "Not a name")
    assert "there is no image" in command.fails("tag", "none:1", "ok:1")
    assert "is called none" in command.fails("untag", "a:1", "none")
    assert names(store) == before


def test_an_image_is_removed_with_its_names_and_its_layers_stay(
    command: Command, store: StoreBuilder
) -> None:
    image = store.image("a:1", [A])
    command("tag", "a:1", "b:1")
    assert command("rm", "a:1") == f"{image.id[:19]}  a:1, b:1\n"
    assert command.json("images") == []
    assert len(command.json("layers")) == 1
    assert "there is no image" in command.fails("rm", "a:1")


# No layers, many layers, few rights


@pytest.mark.parametrize(
    "words",
    [
        ["ls", "scratch:1"],
        ["tree", "scratch:1"],
        ["cat", "scratch:1:/a"],
        ["diff", "scratch:1", "a:1"],
        ["blame", "scratch:1", "/a"],
        ["export", "scratch:1", "root", "--format", "dir"],
        ["export", "scratch:1", "root", "--format", "layer"],
        ["squash", "scratch:1"],
    ],
)
def test_an_image_without_layers_has_nothing_to_show(
    command: Command, store: StoreBuilder, words: list[str]
) -> None:
    store.image("scratch:1", [])
    store.image("a:1", [A])
    command.fails(*words)


@pytest.mark.parametrize("words", [["du"], ["history"], ["files", "--wasted"], ["export"]])
def test_an_image_without_layers_is_an_image(
    command: Command, store: StoreBuilder, directory: Path, words: list[str]
) -> None:
    store.image("scratch:1", [])
    target = [str(directory / "out")] if words == ["export"] else []
    command(*words, "scratch:1", *target)


def test_an_image_may_have_more_layers_than_descriptors_are_allowed_at_first(
    store: StoreBuilder, directory: Path
) -> None:
    layers = [tars.tar(tars.file(f"{number}", b"x")) for number in range(40)]
    store.image("app:1", layers)

    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, 4096))

    for words in (["export", "app:1", "out"], ["import", "out"], ["squash", "app:1"]):
        done = program(*words, store=store.path, cwd=directory, preexec_fn=few)
        assert done.returncode == 0, done.stderr
    other = program("import", "out", store=directory / "other", cwd=directory, preexec_fn=few)
    assert other.returncode == 0, other.stderr


@pytest.fixture
def somebody(directory: Path) -> Iterator[Somebody]:
    with contextlib.closing(Somebody(directory)) as made:
        yield made


def test_an_ordinary_user_has_a_store_of_their_own(
    somebody: Somebody, store: StoreBuilder, directory: Path
) -> None:
    everything = tars.tar(
        tars.character("null", 1, 3),
        tars.xattrs({"security.capability": bytes(20), "trusted.a": b"1"}),
        tars.file("a", b"x", uid=0, mode=0o4755),
        tars.whiteout("gone"),
    )
    image = store.image("app:1", [everything])
    archive = store.archive(somebody.home / "app.tar", "app:1")
    os.chown(archive, ME, ME)

    def body() -> None:
        os.environ["HOME"] = str(somebody.home)
        os.environ.pop("XDG_DATA_HOME", None)
        os.environ.pop("LAYERSTORE", None)
        for words in (
            ["import", "app.tar"],
            ["export", "app:1", "out.tar"],
            ["images"],
            ["squash", "app:1", "--tag", "small:1"],
            ["rm", "small:1"],
        ):
            assert main(words) == 0
        # Somebody else's is not theirs to use.
        assert main(["--store", str(store.path), "images"]) == 1
        with Repository() as theirs:
            assert theirs.paths.root == str(place)
            assert [found.id for found in theirs.images()] == [image.id]

    place = somebody.home / ".local/share/layerstore"
    somebody.run(body)
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    assert (somebody.home / "out.tar").read_bytes() == archive.read_bytes()
