"""The repository's own promises: what it installs is pinned, and nothing else gets installed."""

import re
import tomllib
from collections.abc import Iterable
from importlib.metadata import distributions, version
from pathlib import Path

import unionfs

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LINES = (ROOT / "scripts" / "constraints.txt").read_text().splitlines()
PINS = dict(line.lower().split("==") for line in LINES if not line.startswith("#"))


def names(requirements: Iterable[str]) -> set[str]:
    return {
        re.split(r"[^\w.-]", requirement, maxsplit=1)[0].lower() for requirement in requirements
    }


def test_every_requirement_is_pinned() -> None:
    project = PROJECT["project"]

    required = [
        *PROJECT["build-system"]["requires"],
        *project["dependencies"],
        *project["optional-dependencies"]["test"],
    ]
    assert names(required) - PINS.keys() == set()


def test_everything_installed_has_the_pinned_version() -> None:
    ours = {"pip", "setuptools", PROJECT["project"]["name"]}
    installed = {
        distribution.name.lower().replace("_", "-"): distribution.version
        for distribution in distributions()
    }
    assert {
        name: (found, PINS.get(name))
        for name, found in installed.items()
        if name not in ours and found != PINS.get(name)
    } == {}


def test_pins_are_names_and_versions_without_an_address() -> None:
    pin = re.compile(r"[\w.-]+==[\w.]+")
    assert [line for line in LINES if not line.startswith("#") and not pin.fullmatch(line)] == []


def test_the_installed_version_is_the_source_version() -> None:
    assert version(PROJECT["project"]["name"]) == unionfs.__version__
