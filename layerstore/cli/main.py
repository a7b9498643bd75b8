"""``layerstore``: the group of all commands, and what they do about mistakes."""

from __future__ import annotations

import dataclasses
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, Final

import click

from layerstore.cli import process
from layerstore.cli.settings import Settings, limits_of
from layerstore.limits import Limits
from unionfs import __version__
from unionfs.model import UnionError, printable

_FAILED: Final = 1
_WRONG_COMMAND_LINE: Final = 2
_SIGNALLED: Final = 128
_INTERRUPTED: Final = 130
_OUTPUT_NOT_READ: Final = 141

_MODULES: Final = {
    "import": "transfer",
    "export": "transfer",
    "images": "images",
    "layers": "images",
    "history": "images",
    "tag": "images",
    "untag": "images",
    "rm": "images",
    "commit": "changes",
    "squash": "changes",
    "ls": "listing",
    "tree": "listing",
    "cat": "listing",
    "diff": "inspection",
    "blame": "inspection",
    "du": "usage",
    "files": "usage",
    "gc": "maintenance",
    "check": "maintenance",
}
"""The commands, in the order of the help, and the modules of this package that have them."""


class _OutputNotReadError(Exception):
    """Who reads our output has had enough."""


class _Group(click.Group):
    """Loads the module of a command when the command is wanted."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _MODULES:
            return None
        module = importlib.import_module(f"layerstore.cli.{_MODULES[cmd_name]}")
        commands: Sequence[click.Command] = module.COMMANDS
        return next(command for command in commands if command.name == cmd_name)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            # click would end the process, as if something were wrong.
            raise _OutputNotReadError from error


@click.group(
    cls=_Group,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Each command has help with an example: layerstore COMMAND --help",
)
@click.option(
    "--store",
    metavar="DIR",
    help="The store (default: $LAYERSTORE; else root's /var/lib/layerstore, a user's in the data"
    " directory). The first import makes it.",
)
@click.option(
    "--limit",
    "limits",
    metavar="NAME=N",
    multiple=True,
    help="Let images ask for more, or less: bytes and ratio of a layer decompressed, its entries,"
    " their depth, path and header, document and layers of an image (default: "
    f"{', '.join(f'{name}={number}' for name, number in dataclasses.asdict(Limits()).items())}).",
)
@click.version_option(__version__, prog_name="layerstore", message="%(prog)s %(version)s")
@click.pass_context
def layerstore(context: click.Context, store: str | None, limits: tuple[str, ...]) -> None:
    """Keep container images, each file content once; mount, inspect, change and share them.

    \b
    layerstore import alpine.tar --tag alpine:3.20
    unionmount alpine:3.20 /mnt/root
    """
    if store == "":
        raise click.BadParameter("the name is empty", param_hint="--store")
    context.obj = Settings(None if store is None else os.path.abspath(store), limits_of(limits))


def main(words: Sequence[str] | None = None) -> int:
    """Do what *words* (default: those of the process) ask for; answers the exit status.

    Mistakes of the user become one line on standard error.
    """
    try:
        with process.prepared():
            return _run(words)
    except process.EndedError as signal:
        return _SIGNALLED + signal.number


def _run(words: Sequence[str] | None) -> int:
    try:
        answer = layerstore.main(words, prog_name="layerstore", standalone_mode=False)
        _flush()
    except click.exceptions.NoArgsIsHelpError as help_:
        click.echo(help_.format_message(), err=True)
        return _WRONG_COMMAND_LINE
    except click.ClickException as error:
        return _complain_of_usage(error)
    except UnionError as error:
        _complain(str(error))
        return _FAILED
    except (click.Abort, KeyboardInterrupt):
        return _INTERRUPTED
    except (_OutputNotReadError, BrokenPipeError):
        _give_output_up()
        return _OUTPUT_NOT_READ
    except OSError as error:
        where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        _complain(f"{where}{error.strerror or error}")
        return _FAILED
    return answer if isinstance(answer, int) else 0


def _flush() -> None:
    try:
        sys.stdout.flush()
    except OSError:
        _give_output_up()
        raise


def _give_output_up() -> None:
    """Have what is still to be written thrown away, or the interpreter complains at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain_of_usage(error: click.ClickException) -> int:
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "layerstore"
    _complain(f"{error.format_message()} (see {command} --help)")
    return _WRONG_COMMAND_LINE


def _complain(message: str) -> None:
    print(f"layerstore: {printable(message)}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
