"""Commands that list images and layers, and name and remove images."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from typing import Any, Final

import click

from layerstore.cli import output
from layerstore.cli.output import json_option
from layerstore.cli.settings import Settings, pass_settings
from layerstore.digest import short
from layerstore.errors import StoreError
from layerstore.repository import Image, Repository


@click.command()
@json_option
@pass_settings
def images(settings: Settings, json_: bool) -> None:
    """List the images. SIZE: of all layers' tars.

    \b
    Example:
      layerstore images
    """
    with settings.open() as repository:
        sizes = {diff_id: totals[0] for diff_id, totals in _totals(repository).items() if totals}
        found = [_image(image, sizes) for image in repository.images()]
    if json_:
        output.as_json(found)
        return
    rows = [
        (name, short(image["id"]), str(len(image["layers"])), _size(image["size"]), image["added"])
        for image in found
        for name in image["names"] or ["<none>"]
    ]
    output.table(("NAME", "IMAGE", "LAYERS", "SIZE", "ADDED"), rows, right=(2, 3))


def _size(size: int | None) -> str:
    return "?" if size is None else output.size(size)


def _image(image: Image, sizes: dict[str, int]) -> dict[str, Any]:
    known = [sizes.get(diff_id) for diff_id in image.layers]
    return {
        "id": image.id,
        "names": list(image.names),
        "platform": "/".join(filter(None, (image.config.os, image.config.architecture))),
        "created": image.config.created,
        "added": datetime.fromtimestamp(image.added, UTC).isoformat(timespec="seconds"),
        "layers": list(image.layers),
        "size": None if None in known else sum(size or 0 for size in known),
    }


def _totals(repository: Repository) -> dict[str, tuple[int, int] | None]:
    """For each layer the bytes of its tar and its entries, None for one that can't be read."""
    found: dict[str, tuple[int, int] | None] = {}
    for diff_id in repository.layers():
        try:
            with contextlib.closing(repository.open_layer(diff_id)) as layer:
                found[diff_id] = layer.index.totals()
        except StoreError:
            # layerstore check tells of it; the others are to be listed all the same.
            found[diff_id] = None
    return found


@click.command()
@json_option
@pass_settings
def layers(settings: Settings, json_: bool) -> None:
    """List the layers, and the images that have them.

    \b
    Example:
      layerstore layers
    """
    with settings.open() as repository:
        users: dict[str, list[str]] = {}
        for image in repository.images():
            for diff_id in dict.fromkeys(image.layers):
                users.setdefault(diff_id, []).append(image.title)
        found: list[dict[str, Any]] = []
        for diff_id, totals in _totals(repository).items():
            size, entries = totals or (None, None)
            about = {"diff_id": diff_id, "size": size, "entries": entries}
            found.append({**about, "images": users.get(diff_id, [])})
    if json_:
        output.as_json(found)
        return
    rows = [
        (
            short(layer["diff_id"]),
            _size(layer["size"]),
            "?" if layer["entries"] is None else str(layer["entries"]),
            ", ".join(layer["images"]) or "<none>",
        )
        for layer in found
    ]
    output.table(("LAYER", "SIZE", "ENTRIES", "IMAGES"), rows, right=(1, 2))


@click.command()
@click.argument("image", metavar="IMAGE")
@json_option
@pass_settings
def history(settings: Settings, image: str, json_: bool) -> None:
    """Tell the steps that made an image, the first one first, with the layer of each.

    \b
    Example:
      layerstore history alpine:3.20
    """
    with settings.open() as repository:
        found = repository.find(image)
    rest = iter(found.layers)
    fits = None not in found.steps
    steps: list[dict[str, Any]] = []
    for step in found.config.history:
        diff_id = next(rest, None) if fits and not step.empty_layer else None
        about = {"created": step.created, "created_by": step.created_by, "comment": step.comment}
        steps.append({"layer": diff_id, **about})
    steps += [
        {"layer": diff_id, "created": "", "created_by": "", "comment": ""} for diff_id in rest
    ]
    if json_:
        output.as_json(steps)
        return
    rows = [
        (short(step["layer"] or "-"), step["created"] or "-", step["created_by"] or step["comment"])
        for step in steps
    ]
    output.table(("LAYER", "CREATED", "STEP"), rows)


@click.command()
@click.argument("image", metavar="IMAGE")
@click.argument("name", metavar="NAME...", nargs=-1, required=True)
@pass_settings
def tag(settings: Settings, image: str, name: tuple[str, ...]) -> None:
    """Give an image one more name. A name that another image has moves to this one.

    \b
    Example:
      layerstore tag alpine:3.20 base:stable
    """
    with settings.open() as repository:
        before = repository.names()
        output.warn_moved(before, repository.tag(image, name))


@click.command()
@click.argument("name", metavar="NAME...", nargs=-1, required=True)
@pass_settings
def untag(settings: Settings, name: tuple[str, ...]) -> None:
    """Take names away. The images stay, by their IDs.

    \b
    Example:
      layerstore untag base:stable
    """
    with settings.open() as repository:
        repository.untag(name)


@click.command()
@click.argument("image", metavar="IMAGE...", nargs=-1, required=True)
@pass_settings
def rm(settings: Settings, image: tuple[str, ...]) -> None:
    """Remove images with all their names. What nothing else needs goes with layerstore gc.

    \b
    Example:
      layerstore rm alpine:3.19
    """
    with settings.open() as repository:
        removed = repository.remove(*image)
    for found in removed:
        click.echo(f"{short(found.id)}  {', '.join(found.names) or '<none>'}")


COMMANDS: Final[tuple[click.Command, ...]] = (images, layers, history, tag, untag, rm)
