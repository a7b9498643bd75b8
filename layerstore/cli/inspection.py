"""Commands that tell what changed between images, and who did it: diff, blame."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any, Final

import click

from layerstore.cli import output
from layerstore.cli.listing import item_as_json, naming
from layerstore.cli.output import json_option
from layerstore.cli.settings import Settings, pass_settings
from layerstore.digest import short
from layerstore.errors import shown
from layerstore.inspection import difference, subjects
from layerstore.inspection.blame import Blame, Statement
from layerstore.inspection.blame import blame as blame_of
from layerstore.inspection.difference import Difference


@click.command()
@click.argument("before", metavar="A")
@click.argument("after", metavar="B")
@click.option("--work", metavar="DIR", help="The upper's work directory (default: B.work).")
@click.option("--userxattr", is_flag=True, help="The upper was mounted with -o userxattr.")
@json_option
@pass_settings
def diff(
    settings: Settings, before: str, after: str, work: str | None, *, userxattr: bool, json_: bool
) -> None:
    """Tell what was added (A), modified (M) and deleted (D) between two images or layers.

    B may also be an upper directory: then it is told what that changes in A. Write ./B if there is
    an image of that name, too.

    \b
    Examples:
      layerstore diff alpine:3.19 alpine:3.20
      layerstore diff alpine:3.20 ./changes
    """
    at = None if work is None else Path(work)
    with (
        settings.open() as repository,
        difference.compared(repository, before, after, work=at, userxattr=userxattr) as views,
    ):
        found = difference.differences(*views)
        if json_:
            output.as_json_list(map(_difference, found))
        else:
            output.lines(
                f"{item.letter} {shown(item.path)}"
                + (f" ({', '.join(item.what)})" if item.what else "")
                for item in found
            )


def _difference(item: Difference) -> dict[str, Any]:
    return {
        "path": output.text(item.path),
        "change": {"A": "added", "M": "modified", "D": "deleted"}[item.letter],
        "what": list(item.what),
        "size_before": item.size_before,
        "size_after": item.size_after,
    }


@click.command()
@click.argument("image", metavar="IMAGE")
@click.argument("path", metavar="PATH")
@json_option
@pass_settings
def blame(settings: Settings, image: str, path: str, *, json_: bool) -> None:
    """Tell which layer and which step gave a path, and what it hides; the topmost layer first.

    It is told of deleted paths, too. EFFECT: what the image shows; merges: a directory whose names
    show, under the attributes of one above; removes: hides all below; hidden: by one above.
    Layers are counted from 0, the base.

    \b
    Example:
      layerstore blame alpine:3.20 /etc/passwd
    """
    with (
        settings.open() as repository,
        subjects.opened(repository, image) as subject,
        naming(f"{image}: {path}"),
    ):
        found = blame_of(subject.layers, os.fsencode(path))
    if json_:
        output.as_json(_blame(found))
        return
    rows = [
        (
            said.effect,
            str(said.position),
            short(said.diff_id),
            _says(said),
            "" if said.item is None else f"{stat.S_IMODE(said.item.mode):04o}",
            "" if said.item is None else str(said.item.size),
            shown(said.path),
            said.created_by or "",
        )
        for said in found.statements
    ]
    heading = ("EFFECT", "LAYER", "DIGEST", "WHAT", "MODE", "SIZE", "PATH", "STEP")
    output.table(heading, rows, right=(1, 5))


def _says(said: Statement) -> str:
    if said.item is None:
        return "whiteout"
    return f"opaque {said.item.kind}" if said.opaque else said.item.kind


def _blame(found: Blame) -> dict[str, Any]:
    return {
        "path": output.text(found.path),
        "layers": [_statement(said) for said in found.statements],
    }


def _statement(said: Statement) -> dict[str, Any]:
    return {
        "effect": said.effect,
        "layer": said.position,
        "diff_id": said.diff_id,
        "created_by": said.created_by,
        "path": output.text(said.path),
        "whiteout": said.item is None,
        "opaque": said.opaque,
        "entry": None if said.item is None else item_as_json(said.item),
    }


COMMANDS: Final[tuple[click.Command, ...]] = (diff, blame)
