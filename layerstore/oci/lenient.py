"""JSON into structs as Go's encoding/json reads it, for that is what images were made for.

Go takes a key in any case (Jib writes manifest.json in lower case), and null for a key that is
not there (``"history": null``). Everything else is as strict as it looks.
"""

from __future__ import annotations

import functools
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from layerstore.errors import InvalidContentError, LimitExceededError
from layerstore.limits import Limits
from unionfs.model import printable

T = TypeVar("T", bound=msgspec.Struct)


def check_size(size: int, what: str, limits: Limits) -> None:
    """Raise LimitExceededError if *size* bytes are too much for a document called *what*."""
    if size > limits.document:
        raise LimitExceededError(
            f"{what}: {size} bytes are more than the {limits.document} that a document may have;"
            " allow more with --limit document=N"
        )


def decode(data: bytes, what: str, limits: Limits) -> Any:
    """The plain objects that a document called *what* consists of.

    Raises InvalidContentError (LimitExceededError for its size).
    """
    check_size(len(data), what, limits)
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidContentError(f"{what}: not JSON that can be read: {error}") from error


def keys(document: object, what: str) -> frozenset[str]:
    """The keys of an object in a form that is compared.

    Raises InvalidContentError if it is none.
    """
    if not isinstance(document, dict):
        raise InvalidContentError(f"{what}: not a JSON object")
    return frozenset(key.casefold() for key in document)


def convert(document: object, kind: type[T], what: str) -> T:
    """The struct that *document*, called *what*, describes.

    Raises InvalidContentError with the place in the document.
    """
    try:
        return msgspec.convert(_folded(document, _described(kind)), kind)
    except msgspec.ValidationError as error:
        raise InvalidContentError(f"{what}: {printable(str(error))}") from error


@functools.cache
def _described(kind: type[msgspec.Struct]) -> inspect.Type:
    return inspect.type_info(kind)


def _folded(value: object, kind: inspect.Type) -> object:
    """*value* with the keys of structs spelled as the structs have them, and without nulls."""
    if isinstance(kind, inspect.UnionType):
        kind = next(
            (one for one in kind.types if isinstance(one, inspect.StructType)), inspect.AnyType()
        )
    if isinstance(kind, inspect.StructType) and isinstance(value, dict):
        return _fields(value, kind)
    if isinstance(kind, inspect.VarTupleType) and isinstance(value, list):
        return [_folded(item, kind.item_type) for item in value]
    return value


def _fields(value: dict[str, object], kind: inspect.StructType) -> dict[str, object]:
    known = {field.encode_name.casefold(): field for field in kind.fields}
    found: dict[str, object] = {}
    for key, item in value.items():
        field = known.get(key.casefold())
        if field is None or item is None:
            continue
        # Where a key is there in two spellings, the right one counts.
        if key == field.encode_name or field.encode_name not in value:
            found[field.encode_name] = _folded(item, field.type)
    return found
