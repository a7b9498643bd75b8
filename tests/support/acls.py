"""POSIX access control lists in the form in which the kernel takes them as attributes."""

import os
import struct
from pathlib import Path

_TAGS = {"user": 1, "named user": 2, "group": 4, "named group": 8, "mask": 16, "other": 32}
_NOBODY = 0xFFFFFFFF

ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"


def acl(text: str) -> bytes:
    """An ACL from setfacl's short text: `u::rw-,u:1000:r--,g::r--,m::rw-,o::---`."""
    entries = []
    for entry in text.split(","):
        kind, qualifier, permissions = entry.split(":")
        tag = {"u": "user", "g": "group", "m": "mask", "o": "other"}[kind]
        bits = sum(bit for bit, letter in zip((4, 2, 1), permissions, strict=True) if letter != "-")
        number = int(qualifier) if qualifier else _NOBODY
        entries.append((_TAGS[f"named {tag}" if qualifier else tag], bits, number))
    packed = (struct.pack("<HHI", *entry) for entry in sorted(entries))
    return struct.pack("<I", 2) + b"".join(packed)


def set_acl(path: Path, text: str, kind: str = ACCESS) -> None:
    os.setxattr(path, kind, acl(text))


def has_acl(path: Path, text: str, kind: str = ACCESS) -> bool:
    return kind in os.listxattr(path) and os.getxattr(path, kind) == acl(text)
