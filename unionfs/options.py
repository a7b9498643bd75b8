"""Mount options: the words after ``-o``, as overlayfs, fuse-overlayfs and mount(8) spell them."""

from __future__ import annotations

import enum
import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

from unionfs.model import UnionError
from unionfs.owners import ID_MAX, Ids, Owners, Range


class UsageError(UnionError):
    """A command line that can't be meant: its text is the one line to show, exit status 2."""


class Driver(enum.Enum):
    """Who answers the kernel's requests."""

    AUTO = "auto"
    """The data plane what it can, and pyfuse3 the rest; pyfuse3 alone where it was not built."""
    STOCK = "stock"
    """pyfuse3 alone."""
    NATIVE = "native"
    """The same, but its absence is an error."""


class Options(NamedTuple):
    """What the options ask for.

    lower: the layers of ``lowerdir=``, base first (the option itself has the top first).
    upper, work: ``upperdir=`` and ``workdir=``.
    fsname: what mount tables show as the source.
    flags: those of ``ro dev suid noexec sync dirsync noatime allow_other allow_root volatile
        userxattr debug`` that are on.
    metacopy: whether a change of attributes or names copies no content; None where nothing is said.
    owners: how owners show.
    driver: who answers.
    """

    lower: tuple[bytes, ...] = ()
    upper: bytes | None = None
    work: bytes | None = None
    fsname: bytes | None = None
    flags: frozenset[str] = frozenset()
    metacopy: bool | None = None
    owners: Owners = Owners()
    driver: Driver = Driver.AUTO


_SWITCHES: Final[Mapping[str, tuple[str, bool]]] = {
    "ro": ("ro", True),
    "rw": ("ro", False),
    "dev": ("dev", True),
    "nodev": ("dev", False),
    "suid": ("suid", True),
    "nosuid": ("suid", False),
    "noexec": ("noexec", True),
    "exec": ("noexec", False),
    "sync": ("sync", True),
    "async": ("sync", False),
    "dirsync": ("dirsync", True),
    "noatime": ("noatime", True),
    "atime": ("noatime", False),
    "relatime": ("noatime", False),
    "strictatime": ("noatime", False),
    "allow_other": ("allow_other", True),
    "allow_root": ("allow_root", True),
    "volatile": ("volatile", True),
    "fsync=0": ("volatile", True),
    "fsync=1": ("volatile", False),
    "userxattr": ("userxattr", True),
    "debug": ("debug", True),
    "metacopy=on": ("metacopy", True),
    "metacopy=off": ("metacopy", False),
}

# What always holds here, what only mount(8) and fstab(5) are meant by, and hints about times that
# the upper's own filesystem keeps as it was mounted.
_ACCEPTED: Final = re.compile(
    "default_permissions|nonempty|(no)?(diratime|lazytime|iversion|mand)|norelatime|nostrictatime"
    "|silent|loud|defaults|(no)?(auto|user|users)|owner|group|nofail|_netdev"
    "|(x-|X-|user=|uhelper=|helper=|comment=).*"
)

_FIXED: Final[Mapping[str, tuple[tuple[str, ...], str]]] = {
    "redirect_dir": (("on",), "a renamed directory always leaves a redirect"),
    "index": (("on",), "hard links always stay one file"),
    "metacopy": (("on", "off"), "files are copied up with their content or without"),
    "xino": (("on", "auto"), "inode numbers are always unique and constant"),
    "nfs_export": (("off",), "a union can't be exported by NFS"),
    "verity": (("off",), "digests of fs-verity aren't looked at"),
    "fsync": (("1",), "changes are synced; or, with fsync=0, not at all"),
}

_SELINUX: Final = "SELinux labels can't be chosen for the mount"
_MISSING: Final = "not supported yet"
_REFUSED: Final[Mapping[str, str]] = {
    "remount": "a mount can't be changed; unmount it and mount it again",
    "bind": "bind mounts are made by mount --bind",
    "rbind": "bind mounts are made by mount --rbind",
    "context": _SELINUX,
    "fscontext": _SELINUX,
    "defcontext": _SELINUX,
    "rootcontext": _SELINUX,
    "datadir+": _MISSING,
    "static_nlink": _MISSING,
    "xattr_permissions": _MISSING,
    "noxattrs": _MISSING,
    "noacl": _MISSING,
    "timeout": _MISSING,
    "writeback": _MISSING,
    "threaded": _MISSING,
    "plugins": _MISSING,
    "uuid": _MISSING,
    "auto_unmount": _MISSING,
    "override_creds": _MISSING,
}

# How owners show, as in fuse-overlayfs.
_MAPPINGS: Final = ("uidmapping", "gidmapping")
_SQUASHES: Final = ("squash_to_uid", "squash_to_gid")
_RANGES_MAX: Final = 340  # as many as a user namespace has (user_namespaces(7))

_PATHS: Final = ("lowerdir", "lowerdir+", "upperdir", "workdir", "fsname")


def parse(words: Iterable[str]) -> Options:
    """The options in *words*, each a comma-separated list; of two that differ the later holds.

    A backslash protects a comma anywhere and a colon in ``lowerdir=`` (overlayfs's rule, see
    Documentation/filesystems/overlayfs.rst); any other character after one stands for itself.

    With ``lowerdir=`` set-user-ID counts unless ``nosuid`` is there, as with overlayfs and
    fuse-overlayfs, whose command line that is: containers/storage can't ask for it.

    Raises UsageError for an option that is unknown or asks for what we don't do.
    """
    paths: dict[str, bytes] = {}
    lower: list[bytes] = []
    switches: dict[str, bool] = {}
    values: dict[str, Any] = {}
    for option in (piece for word in words for piece in _split(word, ",")):
        name, equals, value = option.partition("=")
        if equals and name in _PATHS:
            if not value:
                raise UsageError(f"-o {name}= needs a value")
            if name == "lowerdir":
                lower = _lower(value)
            elif name == "lowerdir+":
                lower.insert(0, _plain(value))
            else:
                paths[name] = _plain(value)
        elif name in _READERS:
            values[name] = _READERS[name](option, value)
        elif option == "squash_to_root":
            values = {**dict.fromkeys(_SQUASHES, 0), **values}
        elif option in _SWITCHES:
            switch, on = _SWITCHES[option]
            switches[switch] = on
        elif option and not _ACCEPTED.fullmatch(option):
            _require_fixed(option, name, value)
    if lower:
        switches.setdefault("suid", True)
    metacopy = _metacopy(switches)
    return Options(
        lower=tuple(lower),
        upper=paths.get("upperdir"),
        work=paths.get("workdir"),
        fsname=paths.get("fsname"),
        flags=frozenset(switch for switch, on in switches.items() if on),
        metacopy=metacopy,
        owners=Owners(
            *(
                Ids(values.get(mapping, ()), values.get(squash))
                for mapping, squash in zip(_MAPPINGS, _SQUASHES, strict=True)
            )
        ),
        driver=values.get("driver", Driver.AUTO),
    )


def _metacopy(switches: dict[str, bool]) -> bool | None:
    """Take the word on metacopy, if there was one, out of *switches*."""
    asked = switches.pop("metacopy", None)
    if asked and switches.get("userxattr"):
        raise UsageError("-o metacopy=on,userxattr: anybody can set marks then, so one has to go")
    return asked


def _ranges(option: str, value: str) -> tuple[Range, ...]:
    """The ranges in *value*, STORED:SHOWN:LENGTH and so on."""
    # containers/storage writes a colon before the first.
    numbers = [_id(option, number) for number in value.removeprefix(":").split(":")]
    if len(numbers) % 3:
        raise UsageError(f"-o {option}: needs STORED:SHOWN:LENGTH, once or more")
    ranges = tuple(Range(*numbers[at : at + 3]) for at in range(0, len(numbers), 3))
    if len(ranges) > _RANGES_MAX:
        raise UsageError(f"-o {option}: more than {_RANGES_MAX} ranges")
    for side in ("stored", "shown"):
        end = 0
        for start, length in sorted((getattr(piece, side), piece.length) for piece in ranges):
            if length == 0 or start + length > ID_MAX + 1:
                raise UsageError(f"-o {option}: a range can't have {length} ids from {start} on")
            if start < end:
                raise UsageError(f"-o {option}: id {start} is in two ranges")
            end = start + length
    return ranges


def _id(option: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(ID_MAX))):
        raise UsageError(f"-o {option}: {text or 'nothing'} is not a number of an owner")
    return int(text)


def _driver(option: str, value: str) -> Driver:
    try:
        return Driver(value)
    except ValueError:
        known = ", ".join(driver.value for driver in Driver)
        raise UsageError(f"-o {option}: the drivers are {known}") from None


# What makes a value of an option's text; called with the option, for messages, and the text.
_READERS: Final[Mapping[str, Callable[[str, str], Any]]] = {
    **dict.fromkeys(_MAPPINGS, _ranges),
    **dict.fromkeys(_SQUASHES, _id),
    "driver": _driver,
}


def _lower(value: str) -> list[bytes]:
    pieces = _split(value, ":")
    if "" in pieces:
        reason = f"data-only layers (::) are {_MISSING}" if "::" in value else "an empty name"
        raise UsageError(f"-o lowerdir={value}: {reason}")
    return [_plain(piece) for piece in reversed(pieces)]


def _require_fixed(option: str, name: str, value: str) -> None:
    if name in _REFUSED:
        raise UsageError(f"-o {option}: {_REFUSED[name]}")
    if name not in _FIXED:
        raise UsageError(f"-o {option}: unknown option")
    values, rule = _FIXED[name]
    if value not in values:
        raise UsageError(f"-o {option}: only {name}={values[0]} is possible: {rule}")


def _split(text: str, separator: str) -> list[str]:
    pieces = [""]
    for part in re.findall(r"\\.|.", text, re.DOTALL):
        if part == separator:
            pieces.append("")
        else:
            pieces[-1] += part
    return pieces


def _plain(text: str) -> bytes:
    return os.fsencode(re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL))
