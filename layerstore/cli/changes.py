"""Commands that make images of images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import click

from layerstore import committing, names
from layerstore.cli import output, progress
from layerstore.cli.output import json_option, warn_left_out, warn_moved
from layerstore.cli.settings import Settings, pass_settings
from layerstore.committing import About, Made
from layerstore.digest import short

_tag: Final = click.option(
    "--tag", "-t", "tags", metavar="NAME", multiple=True, help="What to call the new image."
)
_message: Final = click.option("--message", "-m", default="", help="What changed, for people.")
_author: Final = click.option("--author", default="", help="Who changed it.")


@click.command()
@click.argument("upper", metavar="UPPER")
@click.option("--onto", metavar="IMAGE", required=True, help="The image that was below.")
@_tag
@click.option("--work", metavar="DIR", help="The upper's work directory (default: UPPER.work).")
@click.option("--userxattr", is_flag=True, help="It was mounted with -o userxattr.")
@_message
@_author
@json_option
@pass_settings
def commit(
    settings: Settings,
    upper: str,
    onto: str,
    tags: tuple[str, ...],
    work: str | None,
    userxattr: bool,
    message: str,
    author: str,
    json_: bool,
) -> None:
    """Make an image of another and the changes in an upper directory.

    What is the same in the image, by content and attributes, is left out. The image's config
    (command, environment and so on) stays. The upper may not be mounted meanwhile.

    \b
    Example:
      unionmount --upper changes alpine:3.20 /mnt/root -- apk add python3
      layerstore commit changes --onto alpine:3.20 --tag python:1
    """
    about = About([names.require(tag) for tag in tags], "layerstore commit", author, message)
    with settings.open() as repository, progress.shown() as watcher:
        before = repository.names()
        made = committing.commit(
            repository,
            Path(upper),
            repository.find(onto),
            about,
            watcher,
            work=None if work is None else Path(work),
            userxattr=userxattr,
        )
    _show(made, before, json_=json_)


@click.command()
@click.argument("image", metavar="IMAGE")
@click.option(
    "--keep",
    metavar="N",
    type=click.IntRange(0),
    default=0,
    help="Leave the first N layers as they are.",
)
@_tag
@_message
@_author
@json_option
@pass_settings
def squash(
    settings: Settings,
    image: str,
    keep: int,
    tags: tuple[str, ...],
    message: str,
    author: str,
    json_: bool,
) -> None:
    """Make an image that shows the same as another and has one layer instead of many.

    \b
    Example:
      layerstore squash app:1 --keep 1 --tag app:1-small
    """
    about = About([names.require(tag) for tag in tags], "layerstore squash", author, message)
    with settings.open() as repository, progress.shown() as watcher:
        before = repository.names()
        made = committing.squash(repository, repository.find(image), about, watcher, keep=keep)
    _show(made, before, json_=json_)


def _show(made: Made, before: Mapping[str, str], *, json_: bool) -> None:
    warn_left_out(made.left_out)
    warn_moved(before, made.image)
    image = made.image
    if json_:
        output.as_json({"id": image.id, "names": list(image.names), "layers": list(image.layers)})
    else:
        click.echo(f"{short(image.id)}  {', '.join(image.names) or 'no name'}")


COMMANDS: Final[tuple[click.Command, ...]] = (commit, squash)
