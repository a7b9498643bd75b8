"""Where things are in a store.

::

    STORE/format                  the version; an unknown one is refused
    STORE/catalog.sqlite          images, manifests, tags, kept blobs
    STORE/layers/<hex>/           a layer, by its diff ID: index.sqlite, recipe; damaged, if it is
    STORE/objects/xx/...          file contents, each kept once
    STORE/blobs/<hex>             compressed layers that were to be kept
    STORE/damaged/                what check has set aside; see :mod:`layerstore.damage`
    STORE/tmp/                    only ever temporaries
    STORE/lock                    shared: names are being given; exclusive: garbage is collected
    STORE/turns                   one byte for each layer: who imports it

A directory is complete once it is in ``layers``: what it needs was on disk before.
"""

from __future__ import annotations

import os
import stat
from typing import Final

from layerstore import digest, durable, leases
from layerstore.catalog import Catalog
from layerstore.errors import DamagedError, StoreError
from layerstore.objects import Objects
from unionfs import syscalls

_VERSION: Final = b"layerstore 1\n"
_FORMAT: Final = "format"
ENVIRONMENT: Final = "LAYERSTORE"
OF_FILESYSTEM: Final = "lost+found"
"""What is in a store that is a filesystem of its own."""
_OF_ROOT: Final = "/var/lib/layerstore"


class Paths:
    """The paths of the store at *root*, an absolute path."""

    def __init__(self, root: str) -> None:
        self.root: Final = root
        self.catalog: Final = f"{root}/catalog.sqlite"
        self.layers: Final = f"{root}/layers"
        self.objects: Final = f"{root}/objects"
        self.blobs: Final = f"{root}/blobs"
        self.damaged: Final = f"{root}/damaged"
        self.temporary: Final = f"{root}/tmp"
        self.lock: Final = f"{root}/lock"
        self.turns: Final = f"{root}/turns"
        self.directories: Final = (
            self.layers,
            self.objects,
            self.blobs,
            self.damaged,
            self.temporary,
        )

    def layer(self, diff_id: str) -> str:
        """The directory of a layer. Raises DamagedError for what is no sha256 digest."""
        return f"{self.layers}/{_digits(diff_id)}"

    def mark(self, diff_id: str) -> str:
        """The file that is there if a layer is known to be damaged: it is to be added again."""
        return f"{self.layer(diff_id)}/damaged"

    def blob(self, blob: str) -> str:
        """The file of a kept blob. Raises DamagedError for what is no sha256 digest."""
        return f"{self.blobs}/{_digits(blob)}"


def _digits(name: str) -> str:
    """What may stand in a path: nothing else keeps what is written and removed in the store."""
    if not digest.is_sha256(name):
        raise DamagedError(f"{name!r} is no sha256 digest, so nothing in the store is called so")
    return name.partition(":")[2]


def default() -> str:
    """The store that is meant where none is named: $LAYERSTORE, or the user's own.

    Raises StoreError if the variable is no absolute path.
    """
    named = os.environ.get(ENVIRONMENT)
    if named:
        if not os.path.isabs(named):
            raise StoreError(f"${ENVIRONMENT} is {named}: make it an absolute path")
        return named
    # Root of a user namespace is a user to the machine.
    if os.geteuid() == 0 and syscalls.every_id_is_mapped():
        return _OF_ROOT
    data = os.environ.get("XDG_DATA_HOME", "")
    return os.path.join(
        data if os.path.isabs(data) else os.path.expanduser("~/.local/share"), "layerstore"
    )


def exists(root: str) -> bool:
    """Whether there is a store at *root*."""
    return os.path.lexists(f"{root}/{_FORMAT}")


def opened(root: str, *, create: bool = True) -> Paths:
    """The store at *root*, made if there is none and *create* says so.

    Raises StoreError: it is another version's or another user's, no store, or not there;
    DamagedError, OSError.
    """
    paths = Paths(os.path.realpath(root))
    try:
        _require_own(paths.root)
        with open(f"{paths.root}/{_FORMAT}", "rb") as file:
            version = file.read(64)
    except FileNotFoundError:
        if not create:
            raise StoreError(
                f"there is no layer store at {root}; layerstore import makes it"
            ) from None
        _create(paths)
        return paths
    except PermissionError:
        raise _not_ours(root) from None
    if version != _VERSION:
        raise StoreError(
            f"the store at {root} has format {version.decode('ascii', 'replace').strip()!r}, and"
            f" this program knows {_VERSION.decode().strip()!r} only: use the one that made it"
        )
    for directory in paths.directories:
        if not _is_directory(directory):
            raise DamagedError(f"{directory} is no directory: put back the one that was there")
    return paths


def _require_own(root: str) -> None:
    """Refuse what another user can change: it is not only read, but written and removed."""
    if os.stat(root).st_uid != os.geteuid():
        raise _not_ours(root)


def _not_ours(root: str) -> StoreError:
    return StoreError(
        f"the store at {root} is another user's; name one of yours with --store or ${ENVIRONMENT}"
    )


def _is_directory(path: str) -> bool:
    try:
        # A link would lead what is swept and collected out of the store.
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except FileNotFoundError:
        return False


def _create(paths: Paths) -> None:
    """Make an empty store, unless somebody else just has."""
    os.makedirs(paths.root, 0o700, exist_ok=True)
    _require_own(paths.root)
    with leases.alone_in(paths.root):
        if not exists(paths.root):
            _fill(paths)


def _fill(paths: Paths) -> None:
    """Make what is in an empty store; ``format`` comes last and says that all is there."""
    begun = (*paths.directories, paths.catalog, f"{paths.catalog}-journal", f"{_FORMAT}.new")
    known = {os.path.basename(path) for path in begun} | {OF_FILESYSTEM}
    if set(os.listdir(paths.root)) - known:
        raise StoreError(f"{paths.root} is not empty and no layer store: name another directory")
    os.chmod(paths.root, 0o700)
    for path in paths.directories:
        os.makedirs(path, 0o700, exist_ok=True)
    Objects.create(paths.objects)
    Catalog(paths.catalog, create=True).close()
    durable.sync_directory(paths.objects)
    durable.write_file(f"{paths.root}/{_FORMAT}", _VERSION)
    durable.sync_directory(os.path.dirname(paths.root))
