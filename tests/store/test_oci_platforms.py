import pytest

from layerstore.errors import StoreError
from layerstore.oci import platforms
from layerstore.oci.documents import Platform


def known(text: str) -> Platform:
    return platforms.parse(text)


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        ("linux/amd64", "linux/amd64"),
        ("Linux/x86_64", "linux/amd64"),
        ("linux/aarch64", "linux/arm64"),
        ("linux/arm/v7", "linux/arm/v7"),
        ("windows/amd64", "windows/amd64"),
    ],
)
def test_platforms_are_given_in_several_words(text: str, spelled: str) -> None:
    assert platforms.spelled(known(text)) == spelled


@pytest.mark.parametrize("text", ["", "linux", "linux/", "/amd64", "a/b/c/d", "linux/a b", "a//b"])
def test_what_is_no_platform_is_refused(text: str) -> None:
    with pytest.raises(StoreError, match="needs OS/ARCHITECTURE"):
        known(text)


@pytest.mark.parametrize(
    ("machine", "spelled"),
    [("x86_64", "linux/amd64"), ("aarch64", "linux/arm64"), ("armv7l", "linux/arm/v7")],
)
def test_this_machine_is_known(monkeypatch: pytest.MonkeyPatch, machine: str, spelled: str) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert platforms.spelled(platforms.host()) == spelled


@pytest.mark.parametrize(
    ("wanted", "offered", "distance"),
    [
        ("linux/amd64", "linux/amd64", 0),
        ("linux/amd64", "linux/x86_64", 0),
        ("linux/amd64", "linux/arm64", None),
        ("linux/amd64", "windows/amd64", None),
        ("linux/arm64", "linux/arm64/v8", 0),
        ("linux/arm/v7", "linux/arm", 0),
        ("linux/arm/v7", "linux/arm/v6", 1),
        ("linux/arm/v7", "linux/arm/v5", 2),
        ("linux/arm/v6", "linux/arm/v7", None),
        ("linux/amd64", "linux/amd64/v3", None),
        ("linux/amd64/v3", "linux/amd64", 2),
        ("linux/s390x/z", "linux/s390x/z", 0),
        ("linux/s390x/z", "linux/s390x", None),
    ],
)
def test_a_machine_runs_older_variants_of_its_architecture(
    wanted: str, offered: str, distance: int | None
) -> None:
    assert platforms.distance(known(wanted), known(offered)) == distance
