"""A root's tar split by packages: what one installation after the other makes of an image."""

import copy
import re
import tarfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path, PurePosixPath

_INFO = "var/lib/dpkg/info/"
_STATUS = "var/lib/dpkg/status"
_IN_EVERY_ROOT = ("required", "important")

Members = Mapping[str, tarfile.TarInfo]


def split(root: Path, layers: int, target: Path, *, dealt: bool = False) -> list[Path]:
    """Make so many layers, tars in the directory *target*, of a root's tar; answers them.

    The first is the base. Each other has one of the largest packages, or with *dealt* its part of
    all that are not basic: their files, the directories above them, and dpkg's list of what is
    installed by then. AssertionError if the root has too few packages.
    """
    with tarfile.open(root) as tar:
        members = {member.name.removeprefix("./"): member for member in tar}
        stanzas = _stanzas(_text(tar, members[_STATUS]))
        owners = _owners(tar, members)
        found = _largest(members, owners, stanzas, layers - 1)
        count = layers - 1
        groups = [found[n::count] if dealt else found[n : n + 1] for n in range(count)]
        later = {package: number for number, group in enumerate(groups) for package in group}
        parts = defaultdict(list)
        for path, member in members.items():
            package = None if member.isdir() else owners.get(_content(path, member))
            parts[later.get(package or "")].append(path)
        installed = "".join(stanzas[package] for package in stanzas if package not in later)
        made = [_write(target / "0.tar", tar, members, parts[None], installed)]
        for number, group in enumerate(groups):
            installed += "".join(stanzas[package] for package in group)
            paths = [*_above([*parts[number], _STATUS]), *parts[number], _STATUS]
            made.append(_write(target / f"{number + 1}.tar", tar, members, paths, installed))
        return made


def _text(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    file = tar.extractfile(member)
    assert file is not None
    return file.read().decode()


def _stanzas(status: str) -> dict[str, str]:
    """dpkg's stanza of each package, by the name that the package's own files have."""
    found = {}
    for stanza in status.split("\n\n"):
        fields = dict(re.findall(r"^([\w-]+): (.*)$", stanza, re.MULTILINE))
        if fields:
            several = fields.get("Multi-Arch") == "same"
            name = fields["Package"] + (f":{fields['Architecture']}" if several else "")
            found[name] = f"{stanza.strip()}\n\n"
    return found


def _owners(tar: tarfile.TarFile, members: Members) -> dict[str, str]:
    """Which package has which path."""
    owners = {}
    for path, member in members.items():
        if not path.startswith(_INFO):
            continue
        package, _, kind = path.removeprefix(_INFO).rpartition(".")
        owners[path] = package
        if kind == "list":
            for line in _text(tar, member).splitlines():
                owners[line[1:]] = package
                owners[f"usr{line}"] = package  # where /bin and its like are links
    return owners


def _content(path: str, member: tarfile.TarInfo) -> str:
    return member.linkname.removeprefix("./") if member.islnk() else path


def _largest(
    members: Members, owners: Mapping[str, str], stanzas: Mapping[str, str], count: int
) -> list[str]:
    """All packages that are not basic, the largest first, at least so many."""
    sizes: Counter[str] = Counter()
    for path, member in members.items():
        if path in owners and owners[path] in stanzas:
            sizes[owners[path]] += member.size
    basic = re.compile(rf"^Priority: ({'|'.join(_IN_EVERY_ROOT)})$", re.MULTILINE)
    found = [package for package, _ in sizes.most_common() if not basic.search(stanzas[package])]
    assert len(found) >= count, f"{count} packages are wanted, and {len(found)} are there"
    return found


def _above(paths: Iterable[str]) -> list[str]:
    """All directories above, the upper ones first."""
    return sorted({str(above) for path in paths for above in PurePosixPath(path).parents} - {"."})


def _write(
    target: Path, tar: tarfile.TarFile, members: Members, paths: Iterable[str], status: str
) -> Path:
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as out:
        for path in paths:
            member = copy.copy(members[path])
            if path == _STATUS:
                changed = status.encode()
                member.size = len(changed)
                out.addfile(member, BytesIO(changed))
            else:
                out.addfile(member, tar.extractfile(member) if member.isreg() else None)
    return target
