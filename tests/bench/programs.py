"""Rows about programs that run from the tree."""

from collections.abc import Sequence

from tests.bench import debianroot
from tests.bench.rows import Kind, row
from tests.bench.stand import Stand

_STARTS = {"cold": Kind.COLD, "warm": Kind.WARM}
_IMPORTS = (
    "abc argparse array ast asyncio base64 bisect calendar collections concurrent.futures"
    " configparser contextlib copy csv ctypes dataclasses datetime decimal difflib email.message"
    " enum fractions functools gzip hashlib http.client inspect itertools json logging"
    " multiprocessing pathlib pickle pprint random shutil sqlite3 ssl subprocess tarfile unittest"
    " urllib.request uuid xml.dom.minidom zipfile"
)
_PURE = "import sys; sys.dont_write_bytecode = True; import "
# Without privileges there is nobody else that apt could be while it downloads.
_INSTALL = (
    "export DEBIAN_FRONTEND=noninteractive;"
    ' apt() { apt-get -qq -oAPT::Sandbox::User=root -oDpkg::Use-Pty=0 "$@"; };'
    f" apt update && apt install --yes --no-install-recommends {' '.join(debianroot.TO_INSTALL)}"
)


@row("start of python3 with imports", "root", _STARTS)
def python(stand: Stand) -> Sequence[float]:
    code = _PURE + ", ".join(_IMPORTS.split())
    return stand.cold_and_warm(*stand.inside("python3", "-c", code))


@row("start of a compiler", "root", _STARTS)
def compiler(stand: Stand) -> Sequence[float]:
    source = f"/{debianroot.PROJECT}/part1.c"
    return stand.cold_and_warm(*stand.inside("gcc", "-S", "-o", "-", source))


@row("make -j2", "root", Kind.PROGRAM, writes=True)
def make(stand: Stand) -> Sequence[float]:
    return [stand.seconds(*stand.inside("make", "-s", "-j2", "-C", f"/{debianroot.PROJECT}"))]


@row("apt-get install", "root", Kind.PROGRAM, writes=True)
def install(stand: Stand) -> Sequence[float]:
    stand.settle()
    return [stand.seconds(*stand.inside("sh", "-c", _INSTALL))]
