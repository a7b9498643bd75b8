"""ls, tree, cat, diff, blame, du and files as they are typed and read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from layerstore.cli.main import main
from tests.support import tars
from tests.support.layers import WHITEOUT, Directory, build
from tests.support.stores import StoreBuilder

BASE = tars.tar(
    tars.directory("etc", mode=0o755),
    tars.file("etc/passwd", b"root:x:0:0\n", mode=0o640, uid=1, gid=42, mtime=0),
    tars.file("etc/group", bytes(2000), mtime=1_700_000_000),
    tars.symlink("etc/link", "/usr/lib/a"),
    tars.directory("usr"),
    tars.directory("usr/lib"),
    tars.file("usr/lib/a", b"\x00binary\xff"),
    tars.hardlink("usr/lib/b", "usr/lib/a"),
    tars.symlink("lib", "usr/lib"),
    tars.character("null", 1, 3, mode=0o666),
    tars.file(b"odd\n\x1b\xff", b""),
)
CHANGE = tars.tar(
    tars.file("etc/passwd", b"root:x:0:0\nuser\n", mode=0o644, mtime=0),
    tars.whiteout("etc/group"),
)


class Command:
    """``layerstore`` on a store of its own, and what it says."""

    def __init__(self, store: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
        self._words = ["--store", str(store)]
        self._captured = capsysbinary

    def raw(self, *words: str) -> bytes:
        self._captured.readouterr()
        assert main([*self._words, *words]) == 0
        out, errors = self._captured.readouterr()
        assert errors == b""
        return out

    def __call__(self, *words: str) -> list[str]:
        return self.raw(*words).decode().splitlines()

    def json(self, *words: str) -> Any:
        return json.loads(self.raw(*words, "--json"))

    def fails(self, *words: str) -> tuple[int, str]:
        self._captured.readouterr()
        status = main([*self._words, *words])
        out, errors = self._captured.readouterr()
        assert out == b""
        assert errors.count(b"\n") == 1
        return status, errors.decode().strip()


@pytest.fixture
def store(directory: Path) -> StoreBuilder:
    made = StoreBuilder(directory / "store")
    made.image("base:1", [BASE])
    made.image("app:1.2", [BASE, CHANGE])
    return made


@pytest.fixture
def run(store: StoreBuilder, capsysbinary: pytest.CaptureFixture[bytes]) -> Command:
    return Command(store.path, capsysbinary)


# ls


def test_ls_lists_names_on_lines_of_their_own(run: Command) -> None:
    assert run("ls", "app:1.2") == ["etc", "lib", "null", r"odd\x0a\x1b\xff", "usr"]
    assert run("ls", "app:1.2:/etc") == ["link", "passwd"]
    assert run("ls", "app:1.2:/etc/passwd") == ["passwd"]


def test_ls_shows_attributes_in_columns(run: Command) -> None:
    assert run("ls", "-l", "base:1:/etc") == [
        "-rw-r--r-- 1 0  0 2000 2023-11-14T22:13:20Z group",
        "lrwxrwxrwx 1 0  0   10 2001-09-09T01:46:40Z link -> /usr/lib/a",
        "-rw-r----- 1 1 42   11 1970-01-01T00:00:00Z passwd",
    ]
    assert run("ls", "-l", "app:1.2:/null") == ["crw-rw-rw- 1 0 0 1, 3 2001-09-09T01:46:40Z null"]


def test_ls_goes_down(run: Command) -> None:
    assert run("ls", "-R", "app:1.2:/usr") == ["/usr:", "lib", "", "/usr/lib:", "a", "b"]


def test_ls_follows_a_link_only_where_it_may(run: Command) -> None:
    assert run("ls", "app:1.2:/lib") == ["a", "b"]
    assert run("ls", "-l", "app:1.2:/lib/")[0].startswith("-rw-r--r-- 2 ")
    (line,) = run("ls", "-l", "app:1.2:/lib")
    assert line.endswith(" lib -> usr/lib")


def test_ls_lists_a_layer(store: StoreBuilder, run: Command) -> None:
    assert run("ls", store.layer(CHANGE)[:19]) == ["etc"]


def test_ls_writes_json(run: Command) -> None:
    found = {item["path"]: item for item in run.json("ls", "-R", "app:1.2")}

    assert found["/etc/passwd"] == {
        "path": "/etc/passwd",
        "type": "file",
        "mode": "0644",
        "uid": 0,
        "gid": 0,
        "links": 1,
        "size": 16,
        "mtime": "1970-01-01T00:00:00.000000000Z",
        "layer": 1,
    }
    assert found["/null"]["device"] == [1, 3]
    assert found["/lib"]["target"] == "usr/lib"
    assert "/odd\n\x1b\udcff" in found
    assert run.json("ls", "app:1.2:/usr")[0]["path"] == "/usr/lib"


def test_an_empty_directory_is_an_empty_list(store: StoreBuilder, run: Command) -> None:
    store.image("empty", [tars.tar()])

    assert run("ls", "empty") == []
    assert run("ls", "-lR", "empty") == ["/:"]
    assert run.json("ls", "empty") == []


def test_times_beyond_the_calendar_are_told_in_seconds(store: StoreBuilder, run: Command) -> None:
    times = [1 << 40, (1 << 63) - 1, -(1 << 63)]
    late = tars.tar(
        *(
            member
            for number, time in enumerate(times)
            for member in (tars.pax({"mtime": str(time)}), tars.file(f"f{number}"))
        )
    )
    store.image("late", [late])

    shown = [line.split()[5:] for line in run("ls", "-l", "late")]
    assert shown == [[f"@{time}", f"f{number}"] for number, time in enumerate(times)]
    assert [item["mtime"] for item in run.json("ls", "late")] == [f"@{time}" for time in times]


def test_errors_name_what_was_typed(run: Command) -> None:
    assert run.fails("ls", "app:1.2:/nothing") == (
        1,
        "layerstore: app:1.2:/nothing: No such file or directory",
    )
    assert run.fails("tree", "app:1.2:/etc/passwd/x") == (
        1,
        "layerstore: app:1.2:/etc/passwd/x: Not a directory",
    )
    status, line = run.fails("ls", "nothing:1")
    assert status == 1
    assert line.startswith("layerstore: there is no image and no layer nothing:1 in the store")


# tree and cat


def test_tree_draws_branches_with_sizes(run: Command) -> None:
    assert run("tree", "app:1.2:/") == [
        "[      24 B]  app:1.2:/",
        "├── [      16 B]  etc",
        "│   ├── [      10 B]  link -> /usr/lib/a",
        "│   └── [      16 B]  passwd",
        "├── [       7 B]  lib -> usr/lib",
        "├── [       0 B]  null",
        r"├── [       0 B]  odd\x0a\x1b\xff",
        "└── [       8 B]  usr",
        "    └── [       8 B]  lib",
        "        ├── [       8 B]  a",
        "        └── [       8 B]  b",
        "",
        "3 directories, 7 files",
    ]


def test_tree_ends_where_it_is_told_to(run: Command) -> None:
    assert run("tree", "base:1:/usr", "--depth", "1") == [
        "[       8 B]  base:1:/usr",
        "└── [       8 B]  lib",
        "",
        "1 directory, 0 files",
    ]


def test_tree_writes_json(run: Command) -> None:
    found = run.json("tree", "base:1:/usr")

    assert [(item["path"], item["depth"], item["size"]) for item in found] == [
        ("/usr", 0, 8),
        ("/usr/lib", 1, 8),
        ("/usr/lib/a", 2, 8),
        ("/usr/lib/b", 2, 8),
    ]


def test_cat_prints_bytes_as_they_are(run: Command) -> None:
    assert run.raw("cat", "app:1.2:/etc/link") == b"\x00binary\xff"
    assert run.raw("cat", "base:1:/etc/passwd") == b"root:x:0:0\n"


def test_cat_tells_what_it_can_not_print(run: Command) -> None:
    assert run.fails("cat", "app:1.2:/etc") == (1, "layerstore: app:1.2:/etc: Is a directory")
    assert run.fails("cat", "app:1.2:/etc/group") == (
        1,
        "layerstore: app:1.2:/etc/group: No such file or directory",
    )
    status, line = run.fails("cat", "app:1.2")
    assert status == 2
    assert "write it like app:1.2:/etc/passwd" in line


# diff and blame


def test_diff_tells_changes(run: Command) -> None:
    assert run("diff", "base:1", "app:1.2") == [
        "D /etc/group",
        "M /etc/passwd (mode, owner, content)",
    ]
    assert run("diff", "app:1.2", "app:1.2") == []
    assert run.json("diff", "app:1.2", "base:1") == [
        {
            "path": "/etc/group",
            "change": "added",
            "what": [],
            "size_before": 0,
            "size_after": 2000,
        },
        {
            "path": "/etc/passwd",
            "change": "modified",
            "what": ["mode", "owner", "content"],
            "size_before": 16,
            "size_after": 11,
        },
    ]


def test_diff_tells_what_an_upper_directory_changes(run: Command, directory: Path) -> None:
    upper = build(directory / "upper", Directory({"lib": WHITEOUT, "new\n": "1"}))

    assert [line for line in run("diff", "app:1.2", str(upper)) if "(" not in line] == [
        "D /lib",
        r"A /new\x0a",
    ]


def test_blame_tells_layers_and_steps(store: StoreBuilder, run: Command) -> None:
    base, change = (store.layer(tar)[:19] for tar in (BASE, CHANGE))

    assert run("blame", "app:1.2", "/etc/passwd") == [
        "EFFECT  LAYER  DIGEST               WHAT  MODE  SIZE  PATH         STEP",
        f"shows       1  {change}  file  0644    16  /etc/passwd  step 2",
        f"hidden      0  {base}  file  0640    11  /etc/passwd  step 1",
    ]
    assert run("blame", "app:1.2", "etc/group")[1:] == [
        f"removes      1  {change}  whiteout              /etc/group  step 2",
        f"hidden       0  {base}  file      0644  2000  /etc/group  step 1",
    ]
    assert run.fails("blame", "app:1.2", "/nothing") == (
        1,
        "layerstore: app:1.2: /nothing: No such file or directory",
    )


def test_blame_writes_json(store: StoreBuilder, run: Command) -> None:
    found = run.json("blame", "app:1.2", "/etc/group")

    assert found["path"] == "/etc/group"
    whiteout, file = found["layers"]
    assert whiteout == {
        "effect": "removes",
        "layer": 1,
        "diff_id": store.layer(CHANGE),
        "created_by": "step 2",
        "path": "/etc/group",
        "whiteout": True,
        "opaque": False,
        "entry": None,
    }
    assert (file["effect"], file["entry"]["size"]) == ("hidden", 2000)


# du and files


def test_du_tells_of_all_images_and_of_the_store(run: Command) -> None:
    heading, *rows, empty, stored, saved = run("du")

    assert heading == "IMAGE     UNIQUE    SHARED  UNPACKED   HIDDEN   WASTED  EFFICIENCY"
    # Which of them comes first depends on the second they were made in.
    assert sorted(rows) == [
        "app:1.2  4.0 KiB  12.0 KiB      24 B  2.0 KiB  2.0 KiB       0.9 %",
        "base:1       0 B  12.0 KiB   2.0 KiB      0 B      0 B     100.0 %",
    ]
    assert empty == ""
    assert stored.startswith("stored: ")
    assert saved == "saved: 12.0 KiB by shared layers, 0 B by files with equal content"


def test_du_tells_of_the_layers_of_an_image_that_is_named(
    store: StoreBuilder, run: Command
) -> None:
    base, change = (store.layer(tar)[:19] for tar in (BASE, CHANGE))

    assert run("du", "app:1.2")[2:] == [
        "",
        "app:1.2:",
        "LAYER                   SIZE   HIDDEN   WASTED  STEP",
        f"{base}  2.0 KiB  2.0 KiB  2.0 KiB  step 1",
        f"{change}     16 B      0 B     16 B  step 2",
    ]


def test_du_writes_json(run: Command) -> None:
    found = run.json("du", "app:1.2")

    (image,) = found["images"]
    assert image["names"] == ["app:1.2"]
    assert (image["unique"], image["shared"], image["unpacked"]) == (4096, 3 * 4096, 24)
    assert (image["hidden"], image["wasted"]) == (2011, 2027)
    assert image["efficiency"] == pytest.approx(19 / 2035)
    assert [layer["created_by"] for layer in image["layers"]] == ["step 1", "step 2"]
    assert found["saved_by_layers"] == 3 * 4096


def test_files_tells_the_layer_of_each(store: StoreBuilder, run: Command) -> None:
    base, change = (store.layer(tar)[:19] for tar in (BASE, CHANGE))
    lines = run("files", "app:1.2")

    assert lines[0] == "LAYER                      SIZE  PATH"
    assert f"{change}        16 B  /etc/passwd" in lines
    assert f"{base}         8 B  /usr/lib/a" in lines
    assert [item["path"] for item in run.json("files", "app:1.2")][:3] == [
        "/etc",
        "/etc/link",
        "/etc/passwd",
    ]


def test_files_tells_those_that_waste(run: Command) -> None:
    assert run("files", "--wasted", "app:1.2") == [
        "  TOTAL   HIDDEN  LAYERS  PATH",
        "2.0 KiB  2.0 KiB  0, 1    /etc/group",
        "   27 B     11 B  0, 1    /etc/passwd",
    ]
    assert run("files", "--wasted", "base:1") == ["TOTAL  HIDDEN  LAYERS  PATH"]
    group, _ = run.json("files", "--wasted", "app:1.2")
    assert group == {
        "path": "/etc/group",
        "total": 2000,
        "hidden": 2000,
        "wasted": 2000,
        "versions": [
            {"layer": 1, "size": 0, "whiteout": True, "shows": False},
            {"layer": 0, "size": 2000, "whiteout": False, "shows": False},
        ],
    }


@pytest.mark.parametrize("command", ["ls", "tree", "cat", "diff", "blame", "du", "files"])
def test_every_command_has_help_with_an_example(run: Command, command: str) -> None:
    text = "\n".join(run(command, "--help"))

    assert f"layerstore {command} " in text.partition("Example")[2]
