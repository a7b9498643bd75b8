from collections.abc import Sequence

def usable() -> bool: ...
def start(
    kernel: int,
    descriptor: int,
    threads: int,
    most: int,
    debug: bool,
    passthrough: bool,
    lower_from: int,
    constant: bool,
    sync: bool,
    /,
) -> None: ...
def offer(descriptor: int, upper: bool, /) -> None: ...
def layer(
    position: int,
    root: int,
    upper: bool,
    whiteout_files: bool,
    device: int,
    space: int,
    owners_known: bool,
    /,
) -> None: ...
def fill(
    number: int, above: int, references: int, sources: Sequence[tuple[int, bytes]], upper_fd: int, /
) -> list[tuple[bytes, int]] | None: ...
def put(
    parent: int,
    name: bytes,
    number: int,
    kind: int,
    attributes: bytes | None,
    references: int,
    /,
) -> bool: ...
def remove(parent: int, name: bytes, /) -> None: ...
def raised(number: int, upper_fd: int, /) -> None: ...
def unknown(number: int, /) -> list[tuple[bytes, int]]: ...
def changes() -> list[tuple[int, bytes, bool]]: ...
def refer(number: int, /) -> bool: ...
def where(number: int, /) -> tuple[int, bytes] | None: ...
def adopt(number: int, /) -> tuple[int, list[tuple[int, bool]], int]: ...
