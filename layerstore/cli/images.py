"""Commands that bring images in and out, list them and name them."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Final

import click

from layerstore import names
from layerstore.cli import output, progress
from layerstore.cli.output import json_option
from layerstore.cli.settings import Settings, pass_settings
from layerstore.compression import Compression
from layerstore.errors import InvalidContent, StoreError, shown
from layerstore.exporting import (
    Format,
    export_images,
    export_layer,
    export_tree,
    named,
    only_layer,
)
from layerstore.extract import Extracted
from layerstore.importing import Imported, Options, import_path, import_stream
from layerstore.repository import Image, Repository
from unionfs.model import printable

_SHORT: Final = 19
_WRITTEN: Final = (Compression.NONE, Compression.GZIP, Compression.ZSTD)
_STANDARD_STREAM: Final = "-"


def short(digest: str) -> str:
    """A digest as people recognise it: twelve digits."""
    return digest[:_SHORT]


def warn(line: str) -> None:
    """Tell what is no error on standard error."""
    click.echo(f"layerstore: {printable(line)}", err=True)


def warn_left_out(paths: Iterable[bytes]) -> None:
    """Tell that sockets were left out."""
    for path in paths:
        warn(f"left out, as a layer can't have sockets: {shown(b'/' + path)}")


@click.command("import")
@click.argument("source", metavar="SOURCE")
@click.option("--tag", "-t", "tags", metavar="NAME", multiple=True, help="What to call the image.")
@click.option("--platform", metavar="OS/ARCH", help="Which of several (default: this machine's).")
@click.option("--reference", metavar="NAME", help="Which image, if there are several in SOURCE.")
@click.option(
    "--keep-blobs",
    is_flag=True,
    help="Keep the compressed layers, too: exports then have the digests that came in.",
)
@json_option
@pass_settings
def import_(
    settings: Settings,
    source: str,
    tags: tuple[str, ...],
    platform: str | None,
    reference: str | None,
    keep_blobs: bool,
    json_: bool,
) -> None:
    """Bring an image into the store.

    SOURCE is an archive of docker save or podman save, an OCI layout or archive, the tar of a layer
    or of a whole root (all of them compressed or not), a directory, or - for standard input. What
    it is, is told from its content. Without --tag the image is called what it is called there.

    \b
    Examples:
      layerstore import alpine.tar --tag alpine:3.20
      docker save app | layerstore import -
    """
    options = Options([names.require(tag) for tag in tags], platform, reference, keep_blobs)
    with settings.open() as repository, progress.shown() as watcher, _naming(source):
        if source == _STANDARD_STREAM:
            found = import_stream(repository, _standard_input(), options, watcher)
        else:
            found = import_path(repository, Path(source), options, watcher)
    for imported in found:
        warn_left_out(imported.left_out)
    if json_:
        output.as_json([_imported(item) for item in found])
        return
    for item in found:
        image = item.image
        called = ", ".join(image.names) or "no name; give it one with layerstore tag"
        layers = f"{len(image.layers)} layer{'s' * (len(image.layers) != 1)}, {item.new} new"
        click.echo(f"{short(image.id)}  {called}  ({layers})")


def _standard_input() -> BinaryIO:
    if sys.stdin is None:
        raise StoreError("standard input is closed")
    return open(sys.stdin.fileno(), "rb", buffering=0, closefd=False)


@contextlib.contextmanager
def _naming(source: str) -> Iterator[None]:
    """Errors about what is in the source begin with its name."""
    try:
        yield
    except InvalidContent as error:
        name = "standard input" if source == _STANDARD_STREAM else source
        raise type(error)(f"{name}: {error}") from error


def _imported(item: Imported) -> dict[str, Any]:
    return {"id": item.image.id, "names": list(item.image.names), "new_layers": item.new}


@click.command()
@click.argument("words", metavar="IMAGE...", nargs=-1, required=True)
@click.argument("target", metavar="TARGET")
@click.option(
    "--format",
    "-f",
    "format_",
    type=click.Choice([kind.value for kind in Format]),
    default=Format.OCI_ARCHIVE.value,
    help="oci: a layout; oci-archive (default): that as a tar; docker-archive: for docker load;"
    " layer: the tar of one layer, given by its digest; dir: a directory that is the root.",
)
@click.option(
    "--compression",
    type=click.Choice([kind.value for kind in _WRITTEN]),
    help="Of the layers (default: as they came; a docker-archive's are not compressed).",
)
@pass_settings
def export(
    settings: Settings, words: tuple[str, ...], target: str, format_: str, compression: str | None
) -> None:
    """Write images out of the store; - as TARGET is standard output.

    A layer's tar is always what it was, bit for bit. Compressed layers are what they were if they
    were imported with --keep-blobs; otherwise they are compressed anew, which is told, and which
    gives the same bytes every time.

    \b
    Examples:
      layerstore export mine:1 mine.tar
      layerstore export mine:1 - --format docker-archive | docker load
      layerstore export mine:1 root --format dir
    """
    kind = Format(format_)
    wanted = None if compression is None else Compression(compression)
    with settings.open() as repository, progress.shown() as watcher:
        if kind is Format.LAYER:
            diff_id = _only_layer(repository, words)
            export_layer(repository, diff_id, _target(target), wanted or Compression.NONE)
            return
        found = [(image, named(image, word)) for word in words for image in [repository.find(word)]]
        if kind is Format.DIR:
            if len(found) != 1:
                raise click.UsageError("the format dir is for one image")
            _warn_of_tree(export_tree(repository, found[0][0], Path(target), watcher))
            return
        done = export_images(repository, found, _target(target), kind, wanted, watcher)
    if done.recompressed and wanted is None:
        count = len(done.recompressed)
        warn(
            f"{count} layer{'s' * (count != 1)} compressed anew: the digests of blobs and manifest"
            " are others than those that came in (import --keep-blobs keeps them)"
        )


def _warn_of_tree(done: Extracted) -> None:
    for path, reason in done.left_out:
        warn(f"left out: {shown(b'/' + path)} ({reason})")
    if done.reowned:
        warn(f"{done.reowned} of {done.entries} files are yours now: only root can give them away")


def _target(word: str) -> Path | BinaryIO:
    if word != _STANDARD_STREAM:
        return Path(word)
    if sys.stdout.isatty():
        raise click.UsageError("an archive is nothing for a terminal: write it to a file or a pipe")
    return sys.stdout.buffer


def _only_layer(repository: Repository, words: tuple[str, ...]) -> str:
    if len(words) != 1:
        raise click.UsageError("the format layer is for one layer")
    if diff_id := repository.find_layer(words[0]):
        return diff_id
    return only_layer(repository.find(words[0]))


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
@click.argument("name", metavar="NAME", nargs=-1, required=True)
@pass_settings
def tag(settings: Settings, image: str, name: tuple[str, ...]) -> None:
    """Give an image one more name. A name that another image has moves to this one.

    \b
    Example:
      layerstore tag alpine:3.20 base:stable
    """
    with settings.open() as repository:
        repository.tag(image, name)


@click.command()
@click.argument("name", metavar="NAME", nargs=-1, required=True)
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
@click.argument("image", metavar="IMAGE", nargs=-1, required=True)
@pass_settings
def rm(settings: Settings, image: tuple[str, ...]) -> None:
    """Remove images with all their names. What nothing else needs goes with layerstore gc.

    \b
    Example:
      layerstore rm alpine:3.19
    """
    with settings.open() as repository:
        for word in image:
            found = repository.remove(word)
            click.echo(f"{short(found.id)}  {', '.join(found.names) or '<none>'}")


COMMANDS: Final[tuple[click.Command, ...]] = (
    import_,
    export,
    images,
    layers,
    history,
    tag,
    untag,
    rm,
)
