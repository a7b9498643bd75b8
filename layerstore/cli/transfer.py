"""Commands that bring images in and out."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

import click

from layerstore import names
from layerstore.cli import output, progress
from layerstore.cli.output import json_option, warn, warn_left_out, warn_moved
from layerstore.cli.settings import Settings, pass_settings
from layerstore.compression import Compression
from layerstore.digest import short
from layerstore.errors import InvalidContentError, StoreError, counted, shown
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

_WRITTEN: Final = (Compression.NONE, Compression.GZIP, Compression.ZSTD)
_STANDARD_STREAM: Final = "-"


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
    with (
        settings.open(create=True) as repository,
        progress.shown() as watcher,
        _naming(source),
    ):
        before = repository.names()
        if source == _STANDARD_STREAM:
            found = import_stream(repository, _standard_input(), options, watcher)
        else:
            found = import_path(repository, Path(source), options, watcher)
    for imported in found:
        warn_left_out(imported.left_out)
        warn_moved(before, imported.image)
    if json_:
        output.as_json([_imported(item) for item in found])
        return
    for item in found:
        image = item.image
        called = ", ".join(image.names) or "no name; give it one with layerstore tag"
        layers = f"{counted(len(image.layers), 'layer')}, {item.new} new"
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
    except InvalidContentError as error:
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
    help="Of the layers (default: as they came, or else gzip; a docker-archive's are not"
    " compressed).",
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
    if kind is Format.DIR and target == _STANDARD_STREAM:
        raise click.UsageError("the format dir makes a directory: name one")
    if kind is Format.DIR and wanted is not None:
        raise click.UsageError("--compression is for layers, and the format dir has none")
    with settings.open() as repository, progress.shown() as watcher:
        if kind is Format.LAYER:
            if len(words) != 1:
                raise click.UsageError("the format layer is for one layer")
            diff_id = only_layer(repository, words[0])
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
        layers = counted(len(done.recompressed), "layer")
        warn(
            f"{layers} compressed anew: the digests of blobs and manifest are"
            " others than those that came in (import --keep-blobs keeps them)"
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


COMMANDS: Final[tuple[click.Command, ...]] = (import_, export)
