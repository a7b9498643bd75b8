"""``layerstore``: the group of all commands, and what they do about mistakes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Final

import click

from layerstore.cli import changes, images, inspection, listing, maintenance, usage
from layerstore.cli.settings import Settings, limits_of
from unionfs import __version__
from unionfs.model import UnionError, printable

_FAILED: Final = 1
_WRONG_COMMAND_LINE: Final = 2
_INTERRUPTED: Final = 130
_OUTPUT_NOT_READ: Final = 141


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Each command has help with an example: layerstore COMMAND --help",
)
@click.option(
    "--store",
    metavar="DIR",
    envvar="LAYERSTORE",
    help="The store (default: $LAYERSTORE; else root's /var/lib/layerstore, a user's in the data"
    " directory). It is made when it is first used.",
)
@click.option(
    "--limit",
    "limits",
    metavar="NAME=N",
    multiple=True,
    help="Let images ask for more, or less: bytes and ratio of a layer decompressed, its entries,"
    " their depth, path and header, document and layers of an image.",
)
@click.version_option(__version__, prog_name="layerstore", message="%(prog)s %(version)s")
@click.pass_context
def layerstore(context: click.Context, store: str | None, limits: tuple[str, ...]) -> None:
    """Keep container images, each file content once; mount, inspect, change and share them.

    \b
    layerstore import alpine.tar --tag alpine:3.20
    unionmount alpine:3.20 /mnt/root
    """
    context.obj = Settings(None if store is None else os.path.abspath(store), limits_of(limits))


for _module in (images, listing, inspection, usage, changes, maintenance):
    for _command in _module.COMMANDS:
        layerstore.add_command(_command)


def main(words: Sequence[str] | None = None) -> int:
    """Do what *words* (default: those of the process) ask for; answers the exit status.

    Mistakes of the user become one line on standard error.
    """
    try:
        answer = layerstore.main(words, prog_name="layerstore", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        return _complain_of_usage(error)
    except UnionError as error:
        _complain(str(error))
        return _FAILED
    except click.Abort:
        return _INTERRUPTED
    except BrokenPipeError:
        # Who reads our output has had enough; the interpreter must not complain at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _OUTPUT_NOT_READ
    except OSError as error:
        where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        _complain(f"{where}{error.strerror or error}")
        return _FAILED
    return answer if isinstance(answer, int) else 0


def _complain_of_usage(error: click.ClickException) -> int:
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "layerstore"
    _complain(f"{error.format_message()} (see {command} --help)")
    return _WRONG_COMMAND_LINE


def _complain(message: str) -> None:
    print(f"layerstore: {printable(message)}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
