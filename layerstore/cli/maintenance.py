"""Commands that keep the store in order: gc, check."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click

from layerstore import check, gc, repair
from layerstore.check import Finding
from layerstore.cli import output, progress
from layerstore.cli.output import json_option
from layerstore.cli.settings import Settings, pass_settings
from layerstore.digest import short
from layerstore.gc import Amount, Item, Plan
from layerstore.repair import Outcome
from unionfs.model import printable

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


@click.command("check")
@click.option("--repair", "mend", is_flag=True, help="Mend what can be mended.")
@click.option(
    "--from",
    "given",
    metavar="SOURCE",
    multiple=True,
    help="With --repair: an archive, a layout or a layer's tar that has what is damaged.",
)
@json_option
@pass_settings
def check_(settings: Settings, mend: bool, given: tuple[str, ...], json_: bool) -> int:
    """Verify everything that is in the store.

    What is damaged is named, with the layers, images and paths that it touches, and set aside, so
    that it is never read as if it were good. To repair, equal contents in the store are used, blobs
    that were kept, and what --from names. To import an image again mends it, too.

    The exit status is 1 if something is damaged and has not been repaired.

    \b
    Examples:
      layerstore check
      layerstore check --repair --from alpine.tar
    """
    if given and not mend:
        raise click.UsageError("--from is for --repair")
    done = repair.lost_catalog(settings.root) if mend else []
    with contextlib.ExitStack() as stack:
        repository = stack.enter_context(settings.open())
        watcher = stack.enter_context(progress.shown())
        found = []
        for finding in check.check(repository, watcher):
            found.append(finding)
            if not json_:
                _show_finding(finding)
        if mend:
            sources = [stack.enter_context(repair.source(repository, Path(word))) for word in given]
            done += repair.repair(repository, sources, watcher)
        left = repair.unmended(repository, found)
        if json_:
            output.as_json(
                {
                    "findings": [_finding_as_json(item, item in left) for item in found],
                    "outcomes": [outcome._asdict() for outcome in done],
                }
            )
        else:
            _show_end(found, done, left, mend=mend)
    return 1 if left else 0


def _show_finding(finding: Finding) -> None:
    click.echo(printable(f"{finding.kind.value} {finding.name} {finding.problem}"))
    for place in finding.paths:
        path = place.path.decode("utf-8", "surrogateescape")
        click.echo(printable(f"    {path} in layer {short(place.layer)}"))
    if not finding.paths:
        for layer in finding.layers:
            click.echo(f"    layer {short(layer)}")
    for image in finding.images:
        click.echo(printable(f"    image {image}"))


def _show_end(
    found: Sequence[Finding],
    done: Sequence[Outcome],
    left: Sequence[Finding],
    *,
    mend: bool,
) -> None:
    for outcome in done:
        click.echo(printable(f"{outcome.name}: {outcome.how}"))
    if not any(finding.is_damage for finding in found):
        click.echo("Nothing is damaged." if found else "Everything is as it should be.")
    elif not left:
        click.echo("Everything is repaired.")
    elif mend:
        click.echo("Not everything could be repaired: give a source with --from, or import again.")
    else:
        click.echo("Repair with layerstore check --repair, or import the images again.")


def _finding_as_json(finding: Finding, is_left: bool) -> dict[str, Any]:
    return {
        "kind": finding.kind.value,
        "name": finding.name,
        "problem": finding.problem,
        "layers": list(finding.layers),
        "images": list(finding.images),
        "paths": [
            {"layer": place.layer, "path": place.path.decode("utf-8", "surrogateescape")}
            for place in finding.paths
        ],
        "damaged": is_left,
    }


COMMANDS: Final[tuple[click.Command, ...]] = (collect, check_)
