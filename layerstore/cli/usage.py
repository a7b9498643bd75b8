"""Commands that tell where the space goes: du, files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

import click

from layerstore.cli import output
from layerstore.cli.listing import item_as_json
from layerstore.cli.output import json_option
from layerstore.cli.settings import Settings, pass_settings
from layerstore.digest import short
from layerstore.errors import shown
from layerstore.inspection import listing, subjects, usage, waste
from layerstore.inspection.listing import Item
from layerstore.inspection.usage import ImageUsage, Usage
from layerstore.inspection.waste import PathUse


@click.command()
@click.argument("image", metavar="[IMAGE...]", nargs=-1)
@json_option
@pass_settings
def du(settings: Settings, image: tuple[str, ...], *, json_: bool) -> None:
    """Tell what images take, what sharing saves, and what they waste.

    UNIQUE: contents that no other image has. SHARED: contents that others have, too; both as blocks
    of the disk, of which the smallest content takes one. UNPACKED: all files of the image. HIDDEN:
    files in its layers that it does not show. WASTED, EFFICIENCY: as dive counts them (all versions
    of paths that several layers have). For images that are named, each layer is shown; layerstore
    files --wasted has the paths.

    \b
    Examples:
      layerstore du
      layerstore du alpine:3.20
    """
    with settings.open() as repository:
        asked = [repository.find(word) for word in image] if image else None
        found = usage.measure(repository, asked)
    if json_:
        output.as_json(_usage(found))
        return
    heading = ("IMAGE", "UNIQUE", "SHARED", "UNPACKED", "HIDDEN", "WASTED", "EFFICIENCY")
    output.table(heading, map(_usage_row, found.images), right=range(1, 7))
    if image:
        for item in found.images:
            _show_layers(item)
    else:
        _show_totals(found)


def _usage_row(item: ImageUsage) -> list[str]:
    sizes = (item.unique, item.shared, item.waste.shown, item.waste.hidden, item.waste.wasted)
    return [item.image.title, *map(output.size, sizes), f"{100 * item.waste.efficiency:.1f} %"]


def _show_layers(item: ImageUsage) -> None:
    click.echo()
    rows = [
        (
            short(layer.diff_id),
            *map(output.size, (layer.size, layer.hidden, layer.wasted)),
            layer.created_by or "",
        )
        for layer in item.waste.layers
    ]
    click.echo(f"{item.image.title}:")
    output.table(("LAYER", "SIZE", "HIDDEN", "WASTED", "STEP"), rows, right=range(1, 4))


def _show_totals(found: Usage) -> None:
    parts = [
        ("contents", found.objects),
        ("indexes and recipes", found.indexes),
        ("kept blobs", found.blobs),
    ]
    click.echo()
    click.echo(
        f"stored: {output.size(found.stored)} ("
        + ", ".join(f"{name} {output.size(number)}" for name, number in parts)
        + ")"
    )
    if found.unused:
        click.echo(f"of no image: {output.size(found.unused)}; layerstore gc removes it")
    click.echo(
        f"saved: {output.size(found.saved_by_layers)} by shared layers,"
        f" {output.size(found.saved_by_files)} by files with equal content"
    )


def _usage(found: Usage) -> dict[str, Any]:
    return {
        "images": [_image_usage(item) for item in found.images],
        "stored": found.stored,
        "objects": found.objects,
        "unused": found.unused,
        "indexes": found.indexes,
        "blobs": found.blobs,
        "saved_by_layers": found.saved_by_layers,
        "saved_by_files": found.saved_by_files,
    }


def _image_usage(item: ImageUsage) -> dict[str, Any]:
    return {
        "id": item.image.id,
        "names": list(item.image.names),
        "unique": item.unique,
        "shared": item.shared,
        "unpacked": item.waste.shown,
        "hidden": item.waste.hidden,
        "wasted": item.waste.wasted,
        "efficiency": item.waste.efficiency,
        "layers": [
            {
                "diff_id": layer.diff_id,
                "created_by": layer.created_by,
                "size": layer.size,
                "hidden": layer.hidden,
                "wasted": layer.wasted,
            }
            for layer in item.waste.layers
        ],
    }


@click.command()
@click.argument("image", metavar="IMAGE")
@click.option("--wasted", is_flag=True, help="Those that waste space, the largest first.")
@json_option
@pass_settings
def files(settings: Settings, image: str, *, wasted: bool, json_: bool) -> None:
    """List all paths of an image, each with the layer that it is from.

    With --wasted: paths of which layers have what the image does not show (HIDDEN), or of which
    several layers have a version (dive's count: TOTAL is then wasted).

    \b
    Examples:
      layerstore files alpine:3.20
      layerstore files --wasted app:1
    """
    with settings.open() as repository, subjects.opened(repository, image) as subject:
        if wasted:
            _show_wasted(waste.wasteful(subject.layers), json_=json_)
        elif json_:
            output.as_json_list(map(item_as_json, listing.items(subject.view)))
        else:
            digests = [layer.identity for layer in subject.layers]
            output.lines(_file_lines(digests, listing.items(subject.view)))


def _file_lines(digests: list[str], items: Iterable[Item]) -> Iterator[str]:
    # The widths are fixed, so that no line has to wait for the last.
    yield f"{'LAYER':<19}  {'SIZE':>10}  PATH"
    for item in items:
        yield f"{short(digests[item.position])}  {output.size(item.size):>10}  {shown(item.path)}"


def _show_wasted(found: list[PathUse], *, json_: bool) -> None:
    if json_:
        output.as_json_list(map(_path_use, found))
        return
    rows = [
        (
            output.size(use.total),
            output.size(use.hidden),
            ", ".join(str(version.position) for version in reversed(use.versions)),
            shown(use.path),
        )
        for use in found
    ]
    output.table(("TOTAL", "HIDDEN", "LAYERS", "PATH"), rows, right=(0, 1))


def _path_use(use: PathUse) -> dict[str, Any]:
    return {
        "path": output.text(use.path),
        "total": use.total,
        "hidden": use.hidden,
        "wasted": use.wasted,
        "versions": [
            {
                "layer": version.position,
                "size": version.size,
                "whiteout": version.removes,
                "shows": version.shows,
            }
            for version in use.versions
        ],
    }


COMMANDS: Final[tuple[click.Command, ...]] = (du, files)
