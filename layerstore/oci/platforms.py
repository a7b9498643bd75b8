"""Platforms: this machine's, one that is asked for, and which of several fits it.

Words and rules are containerd's (its package platforms), which docker and BuildKit use too.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable
from typing import Final

import msgspec

from layerstore.errors import StoreError
from layerstore.oci.documents import Platform
from layerstore.oci.text import listed

_WORD: Final = re.compile(r"[A-Za-z0-9_.-]+")
_ARCHITECTURES: Final = {
    "x86_64": "amd64",
    "x86-64": "amd64",
    "aarch64": "arm64",
    "i386": "386",
    "i486": "386",
    "i586": "386",
    "i686": "386",
    "armhf": "arm",
    "loongarch64": "loong64",
}
# What a variant that is not told means: every machine of that architecture runs it.
_VARIANTS: Final = {"amd64": 1, "arm": 7, "arm64": 8}


def parse(text: str) -> Platform:
    """The platform that ``OS/ARCHITECTURE`` or ``OS/ARCHITECTURE/VARIANT`` names.

    Raises StoreError.
    """
    words = text.split("/")
    if len(words) not in (2, 3) or not all(_WORD.fullmatch(word) for word in words):
        raise StoreError(f"platform {text!r}: needs OS/ARCHITECTURE or OS/ARCHITECTURE/VARIANT")
    return normalised(Platform(os=words[0], architecture=words[1], variant="".join(words[2:])))


def host() -> Platform:
    """The platform of this machine."""
    machine = platform.machine()
    variant = ""
    if found := re.fullmatch(r"armv(\d)\w*", machine):
        machine, variant = "arm", f"v{found[1]}"
    return normalised(Platform(os="linux", architecture=machine, variant=variant))


def normalised(offered: Platform) -> Platform:
    """The platform in the words that others compare with: ``amd64``, not ``x86_64``."""
    architecture = offered.architecture.lower()
    return msgspec.structs.replace(
        offered,
        os=offered.os.lower(),
        architecture=_ARCHITECTURES.get(architecture, architecture),
        variant=offered.variant.lower(),
    )


def spelled(offered: Platform) -> str:
    """The platform as it is given on the command line."""
    words = [offered.os or "unknown", offered.architecture or "unknown"]
    return "/".join([*words, offered.variant] if offered.variant else words)


def is_unknown(offered: Platform) -> bool:
    """Whether it says that there is no platform: BuildKit marks attestations so."""
    return offered.os == "unknown" and offered.architecture == "unknown"


def distance(wanted: Platform, offered: Platform) -> int | None:
    """How far *offered* is from *wanted*: 0 is the best that there can be; None: it won't run.

    A machine runs what is made for an older variant of its architecture.
    """
    wanted, offered = normalised(wanted), normalised(offered)
    if (wanted.os, wanted.architecture) != (offered.os, offered.architecture):
        return None
    if wanted.variant == offered.variant:
        return 0
    newest, needed = _variant(wanted), _variant(offered)
    if newest is None or needed is None or needed > newest:
        return None
    return newest - needed


def unsuited(wanted: Platform, there: Iterable[str], absent: Iterable[str] = ()) -> StoreError:
    """The error that nothing runs on *wanted*; absent: what is listed, but not there."""
    text = f"no image for {spelled(wanted)}; there are: {listed(there) or 'none'}"
    missing = listed(absent)
    return StoreError(f"{text}; listed but missing: {missing}" if missing else text)


def _variant(known: Platform) -> int | None:
    if not known.variant:
        return _VARIANTS.get(known.architecture)
    found = re.fullmatch(r"v?(\d{1,4})", known.variant)
    return int(found[1]) if found else None
