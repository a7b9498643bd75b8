import pytest

from layerstore.oci import names


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("alpine", "alpine:latest"),
        ("alpine:3.20", "alpine:3.20"),
        ("tools/app_v2:a-b.c_D", "tools/app_v2:a-b.c_D"),
        ("registry.example/a/b/c:1", "registry.example/a/b/c:1"),
        ("Registry.Example:5000/a", "Registry.Example:5000/a:latest"),
        ("localhost:5000/a:1", "localhost:5000/a:1"),
        ("[2001:db8::1]:5000/a:1", "[2001:db8::1]:5000/a:1"),
        ("a:1@sha256:" + "0" * 64, "a:1"),
        ("a@sha256:" + "0" * 64, "a:latest"),
        ("a__b--c.d:1", "a__b--c.d:1"),
    ],
)
def test_a_name_gets_a_tag_and_loses_its_digest(text: str, name: str) -> None:
    assert names.normalised(text) == name
    assert names.normalised(name) == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":1",
        "a:",
        "A:1",
        "a/B",
        "a//b",
        "/a",
        "a/",
        "../a",
        "a/../b",
        "a/.",
        "a b",
        "a:1\n",
        "a:b:c",
        "a:-1",
        "a___b",
        "a.",
        "é",
        "a:é",
        "a@sha256:0",
        "a/" * 300 + "a",
        "a" * 100_000,
        "-a" * 250,
    ],
)
def test_what_is_no_name_is_none(text: str) -> None:
    assert names.normalised(text) is None


def test_a_tag_is_what_comes_last() -> None:
    assert names.tag("registry.example:5000/a:1") == "1"
