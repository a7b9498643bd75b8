"""Commands that keep the store in order: gc, check."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import click

from layerstore import gc
from layerstore.cli import output
from layerstore.cli.output import json_option
from layerstore.cli.settings import Settings, pass_settings
from layerstore.gc import Amount, Item, Plan

_KINDS: Final = {
    "images": "images without a name",
    "layers": "layers that no image has",
    "objects": "contents that no layer has",
    "blobs": "compressed layers of no layer",
    "damaged": "damaged files, of nothing that is needed",
    "temporaries": "temporaries of processes that were killed",
}


@click.command("gc")
@click.option("--dry-run", "-n", is_flag=True, help="Only tell what would be removed.")
@click.option("--untagged", is_flag=True, help="Remove images that have no name, too.")
@click.option("--verbose", "-v", is_flag=True, help="Name what is removed.")
@json_option
@pass_settings
def collect(settings: Settings, dry_run: bool, untagged: bool, verbose: bool, json_: bool) -> None:
    """Remove what no image needs.

    Prints what is to be removed, then removes it. What is mounted, or being imported or exported,
    stays, and so does what has come into use meanwhile.

    \b
    Examples:
      layerstore gc --dry-run
      layerstore gc --untagged
    """
    with settings.open() as repository, gc.plan(repository, untagged=untagged) as planned:
        if not json_:
            _show(planned, verbose=verbose)
        removed = None if dry_run else gc.execute(repository, planned)
        if json_:
            output.as_json(_as_json(planned, removed))
        elif removed is not None:
            _show_removed(planned, removed)


def _listed(planned: Plan) -> dict[str, Iterable[Item]]:
    return {
        "images": planned.images,
        "layers": planned.layers,
        "objects": planned.objects(),
        "blobs": planned.blobs,
        "damaged": planned.damaged,
        "temporaries": planned.temporaries,
    }


def _show(planned: Plan, *, verbose: bool) -> None:
    amounts = {kind: amount for kind, amount in planned.amounts().items() if amount.number}
    if not amounts:
        click.echo("There is nothing to remove.")
        return
    rows = [
        (str(amount.number), output.size(amount.size), _KINDS[kind])
        for kind, amount in amounts.items()
    ]
    output.table(("NUMBER", "SIZE", "WHAT"), rows, right=(0, 1))
    if verbose:
        for kind, items in _listed(planned).items():
            for item in items:
                click.echo(f"{kind}  {item.name}  {output.size(item.size)}")


def _show_removed(planned: Plan, removed: Mapping[str, Amount]) -> None:
    wanted = sum(planned.amounts().values(), Amount())
    done = sum(removed.values(), Amount())
    if not wanted.number:
        return
    stayed = wanted.number - done.number
    rest = f"; {stayed} came into use and stay" if stayed else ""
    click.echo(f"Removed {done.number}, {output.size(done.size)}{rest}.")


def _as_json(planned: Plan, removed: Mapping[str, Amount] | None) -> dict[str, Any]:
    def amounts(found: Mapping[str, Amount]) -> dict[str, Any]:
        return {kind: {"number": item.number, "size": item.size} for kind, item in found.items()}

    listed = {
        kind: [{"name": item.name, "size": item.size} for item in items]
        for kind, items in _listed(planned).items()
    }
    return {
        "planned": amounts(planned.amounts()),
        "removed": None if removed is None else amounts(removed),
        "items": listed,
    }


COMMANDS: Final[tuple[click.Command, ...]] = (collect,)
