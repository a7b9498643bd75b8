"""What find, du and rsync say of a tree."""

import subprocess
from pathlib import Path

RSYNC = ("rsync", "-aHAX", "--numeric-ids")


def listing(tree: Path) -> list[bytes]:
    """One record an entry: what find says of it, in the order of paths.

    A directory's size and link count are its filesystem's own affair, so they are left out.
    """
    every = r"%p\n%y %m %U %G %T@ %l\n"
    directories = ("-type", "d", "-printf", every + r"\0")
    others = ("-printf", every + r"%s bytes, %n links\0")
    find = ["find", ".", *directories, "-o", *others]
    found = subprocess.run(find, cwd=tree, check=True, capture_output=True).stdout
    return sorted(found.split(b"\0"))


def usage(tree: Path) -> dict[str, str]:
    """What du counts below `tree`: inodes, and of files the length and the blocks in bytes."""
    files = subprocess.run(
        ["find", ".", "-type", "f", "-print0"], cwd=tree, check=True, capture_output=True
    ).stdout

    def du(*options: str, given: bytes | None = None) -> str:
        counted = subprocess.run(
            ["du", "-sc", *options], input=given, cwd=tree, check=True, capture_output=True
        )
        return counted.stdout.splitlines()[-1].split()[0].decode()

    return {
        "inodes": du("--inodes"),
        "length": du("--bytes", "--files0-from=-", given=files),
        "blocks": du("--block-size=1", "--files0-from=-", given=files),
    }


def differences(tree: Path, other: Path, *, checksum: bool = False) -> str:
    """What rsync would change in `other` to make it `tree`, one line an entry, "" for nothing.

    It looks at types, modes, owners, times, link targets, hard links, ACLs, attributes, and at
    contents: with `checksum` all of them, else their lengths.
    """
    compare = [*RSYNC, "--delete", "--dry-run", "--itemize-changes"]
    compare += ["--checksum"] if checksum else []
    return subprocess.run(
        [*compare, f"{tree}/", f"{other}/"], check=True, capture_output=True, text=True
    ).stdout
