"""``unionmount``: words on the command line to a mount."""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

from unionfs import __version__
from unionfs.driver import container, daemon, records
from unionfs.driver.plan import Plan
from unionfs.layers.markers import Dialects
from unionfs.model import UnionError, printable
from unionfs.options import Options, UsageError, parse
from unionfs.sources import means_directory

_FAILED: Final = 1
_WRONG_COMMAND_LINE: Final = 2
_INTERRUPTED: Final = 130
_OUTPUT_NOT_READ: Final = 141
_ANY_WIDTH: Final = 80

_DESCRIPTION: Final = """\
Show layers as one tree at MOUNTPOINT. A LAYER is a directory, or the name of an image in the layer
store, which stands for all layers of that image. Layers are given base first: what a later one has
hides what an earlier one has under the same name. Without --upper the mount is read-only; with
it, every change goes to the upper directory and no layer is ever written.
"""

_EPILOG: Final = """\
with a command:
  Words after -- are a command: mount, run it as root of the mounted tree (with its own mounts,
  processes, /dev and /proc), unmount, and exit with its status.

mount options (-o, separated by commas; a backslash protects a comma):
  lowerdir=TOP:..:BASE, lowerdir+=LAYER the layers, top first, instead of LAYER words; \\: is a
                                        colon; a word beside MOUNTPOINT is the source to show
  upperdir=DIR, workdir=DIR             as --upper and --work
  ro, dev, suid, noexec, sync, dirsync, noatime
                                        as mount(8) has them; without dev and suid, devices and
                                        set-user-ID files have no effect (with lowerdir=, suid
                                        is the default for root)
  userxattr                             marks are user.overlay.*, which anybody can set on files
                                        of theirs (always so without privileges)
  metacopy=on, metacopy=off             a change of attributes or names leaves a file's content in
                                        its layer, or does not (default: as the kernel's
                                        overlayfs has it here)
  volatile                              sync nothing; after a crash the upper is not to be used
  allow_other, allow_root               who besides you may use it (root's mounts: everyone)
  uidmapping=STORED:SHOWN:LENGTH[:...], gidmapping=...
                                        owners of layers and upper show as others in the mount
  squash_to_root, squash_to_uid=ID, squash_to_gid=ID
                                        every owner shows as this one and can't be changed
  fsname=NAME                           the source that mount tables show
  driver=auto|stock|native              what answers requests: a part in C as well, where it can be
                                        used (auto), never (stock), or else no mount (native)
  debug                                 print every request; implies --foreground
  Options for mount(8) and fstab(5), and those of overlayfs and fuse-overlayfs that ask for what
  is done anyway (default_permissions, redirect_dir=on, index=on, xino=on, ...), are accepted.

examples:
  unionmount base deps app /mnt/root
  unionmount --upper changes base deps app /mnt/root
  unionmount --upper changes base /mnt/root -- sh -c 'apt-get update'
  unionmount alpine:3.20 /mnt/root
  unionmount --upper changes alpine:3.20 /mnt/root -- sh
  unionmount -o lowerdir=app:deps:base,upperdir=changes,workdir=work /mnt/root
  mount -t fuse.unionmount -o lowerdir=/srv/app:/srv/base unionmount /mnt/root
  umount /mnt/root

exit status: 0 mounted (--foreground: unmounted); 1 not mounted; 2 wrong command line.
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def command() -> NoReturn:
    """The program ``unionmount``: does what the words of the process ask for, and ends it."""
    status = main()
    # Taking the interpreter apart would first copy every page of it, for the daemon shares them,
    # and who asked for the mount would wait for that.
    os._exit(status)


def main(words: Sequence[str] | None = None) -> int:
    """Do what *words* (default: those of the process) ask for; answers the exit status.

    Mistakes of the user become one line on standard error.
    """
    _open_standard_streams()
    try:
        return _run(list(sys.argv[1:] if words is None else words))
    except UsageError as error:
        _complain(f"{error} (see unionmount --help)")
        return _WRONG_COMMAND_LINE
    except UnionError as error:
        _complain(str(error))
        return _FAILED
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # Who reads our output has had enough; the interpreter must not complain at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _OUTPUT_NOT_READ


def _run(words: list[str]) -> int:
    words, command = _split_command(words)
    arguments = _parser().parse_intermixed_args(words)
    if arguments.list or arguments.json:
        _require(not arguments.words and command is None, "--list goes with --json only")
        _list(as_json=arguments.json)
        sys.stdout.flush()
        return 0
    options = parse(arguments.options)
    plan = _plan(arguments, options)
    foreground = arguments.foreground or "debug" in options.flags
    if command is not None:
        _require(not foreground, "--foreground and debug don't go with a command")
        return _run_command(plan, command)
    if foreground:
        return daemon.serve(plan)
    daemon.start(plan)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="unionmount",
        usage="unionmount [options] LAYER... MOUNTPOINT [-- COMMAND...]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        # argparse makes one for each argument, and to ask for the terminal's width it loads shutil.
        formatter_class=functools.partial(argparse.HelpFormatter, width=_ANY_WIDTH),
        allow_abbrev=False,
    )
    parser.add_argument("words", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--upper", metavar="DIR", help="the directory that takes the changes")
    parser.add_argument(
        "--work",
        metavar="DIR",
        help="scratch directory on the upper's filesystem, kept with the upper"
        " (default: the upper's name with .work, made beside it)",
    )
    parser.add_argument(
        "--whiteouts",
        choices=[dialect.value for dialect in Dialects],
        default=Dialects.AUTO.value,
        help="how layers say that a name is gone: auto (default) knows every way; overlay takes"
        " names that begin with .wh. as ordinary names",
    )
    parser.add_argument(
        "-o", metavar="OPTS", dest="options", action="append", default=[], help="mount options"
    )
    parser.add_argument(
        "-f", "--foreground", action="store_true", help="serve in this process, until unmounted"
    )
    parser.add_argument("--log", metavar="FILE", help="append the log to FILE")
    parser.add_argument(
        "-v", "--verbose", action="count", default=0, help="log more (-vv: everything)"
    )
    parser.add_argument("--list", action="store_true", help="show this machine's unions")
    parser.add_argument("--json", action="store_true", help="with --list: as JSON")
    parser.add_argument("--version", action="version", version=f"unionmount {__version__}")
    # mount(8) gives these to its helpers; they ask nothing of us (no mtab, tolerance, our type).
    parser.add_argument("-n", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("-s", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("-t", metavar="TYPE", help=argparse.SUPPRESS)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    return parser


def _split_command(words: list[str]) -> tuple[list[str], list[str] | None]:
    if "--" not in words:
        return words, None
    end = words.index("--")
    _require(end + 1 < len(words), "a command is missing after --")
    return words[:end], words[end + 1 :]


def _plan(arguments: argparse.Namespace, options: Options) -> Plan:
    words = [os.fsencode(word) for word in arguments.words]
    if options.lower:
        # As mount(8) calls its helpers: the word before the mount point is the source to show.
        _require(len(words) in (1, 2), "with lowerdir=, only [SOURCE] MOUNTPOINT may be given")
        lower = options.lower
    else:
        _require(len(words) > 1, "LAYER and MOUNTPOINT are needed")
        lower = tuple(words[:-1])
    if len(words) == 2 and options.fsname is None:
        # mount(8) finds what is mounted already by the source that it gave.
        options = options._replace(fsname=words[0] or None)
    upper = _only_one("--upper", arguments.upper, "upperdir=", options.upper)
    work = _only_one("--work", arguments.work, "workdir=", options.work)
    _require(upper is not None or not arguments.work, "--work is of no use without --upper")
    return Plan(
        layers=tuple(map(_layer, lower)),
        point=os.path.realpath(_absolute(words[-1])),
        upper=None if upper is None else _absolute(upper),
        work=None if work is None else _absolute(work),
        dialects=Dialects(arguments.whiteouts),
        options=options,
        log=None if arguments.log is None else _absolute(os.fsencode(arguments.log)),
        verbosity=arguments.verbose,
    )


def _only_one(word: str, given: str | None, option: str, named: bytes | None) -> bytes | None:
    _require(given is None or named is None, f"{word} and -o {option} say the same; give one")
    return named if given is None else os.fsencode(given)


def _layer(word: bytes) -> bytes:
    _require(bool(word), "a name is empty")
    return _absolute(word) if means_directory(word) else word


def _absolute(path: bytes) -> bytes:
    _require(bool(path), "a name is empty")
    try:
        # Not shortened, since what is before .. may be a link.
        return os.path.join(os.getcwdb(), path)
    except FileNotFoundError:
        raise UnionError("the working directory is gone; change to one that is there") from None


def _run_command(plan: Plan, command: Sequence[str]) -> int:
    if os.geteuid() != 0:
        raise UnionError("only root can run a command in the mount; leave out -- and what follows")
    process = daemon.start(plan, bound=True)
    try:
        return container.run(plan.point, command)
    except OSError as error:
        raise UnionError(f"the command can't be run in namespaces of its own: {error}") from error
    finally:
        daemon.stop(plan, process)


def _list(*, as_json: bool) -> None:
    unions = records.mounted()
    if as_json:
        print(json.dumps([union.as_json() for union in unions], indent=2))
        return
    for union in unions:
        print(printable(os.fsdecode(union.point)))
        print(f"  process  {union.process or 'gone, or of another user'}")
        if union.upper is not None and union.work is not None:
            print(f"  upper    {printable(os.fsdecode(union.upper))}")
            print(f"  work     {printable(os.fsdecode(union.work))}")
        for layer in union.layers:
            print(f"  layer    {printable(os.fsdecode(layer))}")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UsageError(message)


def _complain(message: str) -> None:
    print(f"unionmount: {printable(message)}", file=sys.stderr)


def _open_standard_streams() -> None:
    """Have the first three descriptors taken, so that no other file becomes one of them."""
    for stream in (0, 1, 2):
        try:
            os.fstat(stream)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


if __name__ == "__main__":
    command()
