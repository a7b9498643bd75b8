"""What the options before the command say, for all commands."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from typing import Final

import click

from layerstore import paths
from layerstore.limits import Limits
from layerstore.repository import Repository

_DIGITS_MAX: Final = 18


@dataclasses.dataclass(frozen=True)
class Settings:
    """store: an absolute path, or None for the default."""

    store: str | None
    limits: Limits

    @property
    def root(self) -> str:
        """The path of the store that is meant. Raises StoreError."""
        return self.store or paths.default()

    def open(self, *, create: bool = False) -> Repository:
        """The store. One that is not there is made if *create* says so, or if nobody named it: a
        name may be mistyped. Raises StoreError, OSError.
        """
        is_named = bool(self.store or os.environ.get(paths.ENVIRONMENT))
        return Repository(self.store, limits=self.limits, create=create or not is_named)


pass_settings: Final = click.make_pass_decorator(Settings)


def limits_of(words: Iterable[str]) -> Limits:
    """The limits that ``--limit NAME=N`` words ask for. Raises click.BadParameter."""
    known = {field.name for field in dataclasses.fields(Limits)}
    changed = {}
    for word in words:
        name, _, number = word.partition("=")
        if name not in known or not number.isdecimal() or len(number) > _DIGITS_MAX:
            raise click.BadParameter(
                f"{word}: write NAME=N, with one of {', '.join(sorted(known))}",
                param_hint="--limit",
            )
        changed[name] = int(number)
    return dataclasses.replace(Limits(), **changed)
