"""The data plane alone, with sanitizers, between a kernel and a Python that harness.c plays.

`--campaign=N` plays N times as many games. What a game does depends on its number alone, as far as
the threads of the plane do.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

import unionfs
from tests.support.filesystems import FileSystems
from tests.support.layers import FIFO, WHITEOUT, File, HardLink, Symlink, Tree, build, opaque

_HARNESS = Path(__file__).with_name("harness.c")
_PLANE = Path(unionfs.__file__).parent / "driver" / "plane"
_FLAGS = (
    "-std=gnu11",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-g",
    "-O1",
    "-fno-omit-frame-pointer",
    "-fno-sanitize-recover=all",
    "-pthread",
    "-DAT_ONCE_MOST=4",  # so that some files take a thread to be copied
    "-Wl,--wrap=read,--wrap=splice",
    f"-I{_PLANE}",
)
_GAMES = 5
_STEPS = 2000
_FUZZED_INPUTS = 3000

_LARGE: Tree = dict.fromkeys("pqrs", "content")
_BASE: Tree = {
    **_LARGE,
    "file": "content",
    "dir": {**_LARGE, "in": "in", "deep": {f"{number}": "x" for number in range(300)}},
    "twice": HardLink("dir/in"),
    "link": Symlink("file"),
    "hole": File(size=1 << 20),
    "fifo": FIFO,
    "gone": "",
    "opaque": {"below": ""},
    "big": b"b" * 300_000,
}
_ABOVE: Tree = {
    "dir": {"sub": {}},
    "other": {"in": ""},
    "fifo": WHITEOUT,
    ".wh.gone": "",
    "opaque": opaque({}),
    os.fsdecode(b"\xff\xfe"): "",
}
_UPPER: Tree = {
    "new": {"file": "new", "sub": {"in": ""}},
    "dir": {"own": "own", "deep": {"1": "changed", "2": WHITEOUT}},
    "file": "changed",
    "twice": WHITEOUT,
}


def _compiled(target: Path, compiler: str, sanitizers: str, *more: str) -> Path:
    """Compile the plane, but for its face to Python, with the harness."""
    sources = [path for path in sorted(_PLANE.glob("*.c")) if path.name != "module.c"]
    words = [compiler, *_FLAGS, f"-fsanitize={sanitizers}", *more, str(_HARNESS)]
    subprocess.run([*words, *map(str, sources), "-o", str(target)], check=True)
    return target


def _run(*words: str | Path, **environment: str) -> None:
    ran = subprocess.run(
        words,
        # No files: numbers of descriptors are drawn, too.
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, **environment},
        text=True,
        errors="replace",
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[:10_000]


@pytest.fixture
def playground(filesystems: FileSystems) -> Path:
    """Two layers, an upper, and a little room beside them."""
    disk = filesystems.tmpfs(options="size=64m")
    for name, layer in [("0", _BASE), ("1", _ABOVE), ("2", _UPPER)]:
        build(disk / name, layer)
    return disk


@pytest.fixture(scope="module", params=["address,undefined", "thread"])
def harness(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("plane") / "harness"
    return _compiled(target, "gcc", request.param)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "game" in metafunc.fixturenames:
        metafunc.parametrize("game", range(_GAMES * metafunc.config.getoption("campaign")))


def test_whatever_is_asked_the_plane_answers(harness: Path, playground: Path, game: int) -> None:
    threads = 1 + game % 3
    # The sanitizer of threads wants to know where memory will be.
    _run("setarch", "-R", harness, playground, f"{game}", f"{_STEPS}", f"{threads}")


if shutil.which("clang"):

    def test_what_libfuzzer_comes_up_with(tmp_path: Path, playground: Path, campaign: int) -> None:
        fuzzer = _compiled(tmp_path / "fuzzer", "clang", "address,undefined,fuzzer", "-DFUZZER")
        inputs = f"-runs={_FUZZED_INPUTS * campaign}"
        corpus = tmp_path / "corpus"
        corpus.mkdir()
        options = (inputs, "-seed=1", "-max_len=4096", f"-artifact_prefix={tmp_path}/")
        _run(fuzzer, *options, corpus, PLANE_DIRECTORY=str(playground))
