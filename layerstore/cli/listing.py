"""Commands that show what images hold: ls, tree, cat."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from typing import Any, Final

import click

from layerstore.cli import output
from layerstore.cli.output import json_option
from layerstore.cli.settings import Settings, pass_settings
from layerstore.errors import shown
from layerstore.inspection import content, listing, subjects
from layerstore.inspection.listing import Branch, Item, Listing
from layerstore.view import View, ViewNode

_PLACE: Final = "IMAGE[:/PATH]"


@contextlib.contextmanager
def naming(word: str) -> Iterator[None]:
    """Errors are about *word*, as the user wrote it."""
    try:
        yield
    except OSError as error:
        raise type(error)(error.errno, error.strerror, word) from error


def _find(view: View, place: str, path: str | None, *, follow: bool) -> ViewNode:
    with naming(place):
        return view.find(os.fsencode(path or "/"), follow=follow)


@click.command()
@click.argument("place", metavar=_PLACE)
@click.option("-l", "long", is_flag=True, help="Types, modes, links, owners, sizes and times, too.")
@click.option("-R", "recursive", is_flag=True, help="Directories below, too.")
@json_option
@pass_settings
def ls(settings: Settings, place: str, *, long: bool, recursive: bool, json_: bool) -> None:
    """List a directory of an image, or of one layer.

    Owners are numbers, times are in UTC. With -l a link that PATH ends with is shown itself; end it
    with a slash to see where it leads.

    \b
    Examples:
      layerstore ls alpine:3.20
      layerstore ls -lR alpine:3.20:/etc
    """
    image, path = subjects.split(place)
    with settings.open() as repository, subjects.opened(repository, image) as subject:
        node = _find(subject.view, place, path, follow=not long)
        if node.is_directory:
            found = listing.listings(subject.view, node, recursive=recursive)
        else:
            found = iter([Listing(b"", [listing.item(node)])])
        if json_:
            output.as_json_list(item_as_json(item) for part in found for item in part.items)
        else:
            output.lines(_listing_lines(found, long=long, recursive=recursive))


def _listing_lines(listings: Iterable[Listing], *, long: bool, recursive: bool) -> Iterator[str]:
    for number, found in enumerate(listings):
        if recursive and found.path:
            yield from [""] * (number > 0)
            yield f"{shown(found.path)}:"
        yield from _long(found.items) if long else (shown(item.name) for item in found.items)


def _long(items: list[Item]) -> Iterator[str]:
    cells = [
        (
            stat.filemode(item.mode),
            str(item.links),
            str(item.uid),
            str(item.gid),
            ", ".join(map(str, item.device)) if item.device else str(item.size),
            output.time(item.mtime),
        )
        for item in items
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for item, row in zip(items, cells, strict=True):
        columns = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        yield f"{' '.join(columns)} {_with_target(item)}"


def _with_target(item: Item) -> str:
    name = shown(item.name)
    return name if item.target is None else f"{name} -> {shown(item.target)}"


def item_as_json(item: Item) -> dict[str, Any]:
    """An item for JSON."""
    about = {
        "path": output.text(item.path),
        "type": item.kind,
        "mode": f"{stat.S_IMODE(item.mode):04o}",
        "uid": item.uid,
        "gid": item.gid,
        "links": item.links,
        "size": item.size,
        "mtime": output.time(item.mtime, exact=True),
        "layer": item.position,
    }
    if item.device:
        about["device"] = list(item.device)
    if item.target is not None:
        about["target"] = output.text(item.target)
    return about


@click.command()
@click.argument("place", metavar="IMAGE:/PATH")
@pass_settings
def cat(settings: Settings, place: str) -> None:
    """Print a file of an image, or of one layer. Links lead no further than the image's root.

    \b
    Example:
      layerstore cat alpine:3.20:/etc/os-release
    """
    image, path = subjects.split(place)
    if path is None:
        raise click.UsageError(f"{place} names no file: write it like {place}:/etc/passwd")
    out = sys.stdout.buffer
    with settings.open() as repository, subjects.opened(repository, image) as subject:
        pieces = content.pieces(subject.view, os.fsencode(path))
        while True:
            with naming(place):
                piece = next(pieces, None)
            if piece is None:
                break
            out.write(piece)
    out.flush()


@click.command()
@click.argument("place", metavar=_PLACE)
@click.option("--depth", metavar="N", type=click.IntRange(0), help="Go down N levels only.")
@json_option
@pass_settings
def tree(settings: Settings, place: str, depth: int | None, *, json_: bool) -> None:
    """Show a directory of an image, or of one layer, and all below it, with sizes.

    A directory's size is that of all files below it, also of those that --depth leaves out.

    \b
    Example:
      layerstore tree alpine:3.20:/etc --depth 1
    """
    image, path = subjects.split(place)
    with settings.open() as repository, subjects.opened(repository, image) as subject:
        node = _find(subject.view, place, path, follow=True)
        branches = listing.tree(subject.view, node, depth)
        if json_:
            output.as_json_list(map(_branch, branches))
        else:
            output.lines(_tree_lines(branches, place))


def _tree_lines(branches: Iterable[Branch], place: str) -> Iterator[str]:
    directories = files = 0
    for branch in branches:
        size = output.size(branch.size)
        if not branch.ends:
            yield f"[{size:>10}]  {shown(os.fsencode(place))}"
            continue
        is_directory = stat.S_ISDIR(branch.item.mode)
        directories, files = directories + is_directory, files + (not is_directory)
        *above, is_last = branch.ends
        lead = "".join("    " if ended else "│   " for ended in above)
        yield f"{lead}{'└── ' if is_last else '├── '}[{size:>10}]  {_with_target(branch.item)}"
    yield ""
    yield f"{_number(directories, 'directory', 'directories')}, {_number(files, 'file', 'files')}"


def _number(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"


def _branch(branch: Branch) -> dict[str, Any]:
    return {**item_as_json(branch.item), "size": branch.size, "depth": len(branch.ends)}


COMMANDS: Final[tuple[click.Command, ...]] = (ls, tree, cat)
