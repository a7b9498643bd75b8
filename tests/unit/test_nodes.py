"""Identity: inode numbers, and which nodes stay."""

from __future__ import annotations

import stat
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.memory import MemoryLayer, Status
from unionfs.merge import Source
from unionfs.model import Entry
from unionfs.nodes import ROOT_NUMBER, Identity, Node, Nodes, Numbering, OpenFile

HOST = (1, 2)
"""The host's root, which all layers are below."""
BASE, DEPS = (1, 10), (1, 20)
INNER = [(1, 11), BASE, HOST]
"""A layer inside BASE."""


def layer(*lineage: tuple[int, int]) -> MemoryLayer:
    return MemoryLayer({}, lineage=lineage)


def numbering(*lineages: Sequence[tuple[int, int]]) -> Numbering:
    return Numbering([layer(*lineage) for lineage in lineages])


def number(numbering: Numbering, position: int, device: int, inode: int) -> int:
    return numbering.number(numbering.identity(position, Status(0, inode, device)))


# Numbers


def test_inodes_of_the_first_filesystem_keep_their_numbers() -> None:
    assert number(numbering([BASE, HOST]), 0, 1, 12345) == 12345


def test_layers_of_one_filesystem_share_its_numbers() -> None:
    both = numbering([BASE, HOST], [DEPS, HOST])
    assert number(both, 0, 1, 12345) == number(both, 1, 1, 12345) == 12345
    assert both.identity(0, Status(0, 5)) == both.identity(1, Status(0, 5))


def test_a_further_filesystem_has_its_index_above_the_48th_bit() -> None:
    three = numbering([BASE], [(7, 10)], [DEPS], [(8, 10)])
    assert [number(three, *where, 99) for where in ((0, 1), (1, 7), (2, 1), (3, 8))] == [
        99,
        1 << 48 | 99,
        99,
        2 << 48 | 99,
    ]


@pytest.mark.parametrize(
    "lineages",
    [([BASE, HOST], [BASE, HOST]), ([BASE, HOST], INNER), (INNER, [BASE, HOST])],
    ids=["given twice", "inside the first", "inside the second"],
)
def test_layers_that_overlap_show_other_files(lineages: Sequence[list[tuple[int, int]]]) -> None:
    both = numbering(*lineages)
    assert number(both, 0, 1, 12345) == 12345
    assert number(both, 1, 1, 12345) == 1 << 48 | 12345
    assert both.identity(0, Status(0, 5)) != both.identity(1, Status(0, 5))


def test_a_layer_that_overlaps_one_still_shares_with_the_others() -> None:
    three = numbering([BASE, HOST], [BASE, HOST], [DEPS, HOST])
    assert three.identity(2, Status(0, 5)) == three.identity(0, Status(0, 5))


def test_a_filesystem_mounted_inside_a_layer_is_hashed() -> None:
    one = numbering([BASE])
    assert number(one, 0, 9, 12345) >> 63 == 1
    assert number(one, 0, 9, 12345) != number(one, 0, 9, 12346)
    assert number(one, 0, 9, 12345) != number(one, 0, 8, 12345)


def test_a_large_inode_number_is_hashed() -> None:
    one = numbering([BASE])
    assert number(one, 0, 1, (1 << 48) - 1) == (1 << 48) - 1
    assert number(one, 0, 1, 1 << 48) >> 63 == 1


def test_filesystems_that_the_bits_do_not_suffice_for_are_hashed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("unionfs.nodes._SPACES_MAX", 2)
    three = numbering([(1, 10)], [(2, 10)], [(3, 10)])
    assert number(three, 1, 2, 5) == 1 << 48 | 5
    assert number(three, 2, 3, 5) >> 63 == 1


def test_a_hashed_number_is_the_same_at_every_mount() -> None:
    assert number(numbering([BASE]), 0, 9, 12345) == 0xD701EFCA32AA671D


@pytest.mark.parametrize("inode", [0, 1])
def test_no_inode_gets_the_number_of_the_root(inode: int) -> None:
    assert number(numbering([BASE]), 0, 1, inode) > ROOT_NUMBER


_IDENTITIES = st.tuples(st.integers(0, 1), st.integers(1, 5), st.integers(2, (1 << 64) - 1))


@given(st.lists(_IDENTITIES, unique=True, max_size=20))
def test_different_inodes_have_different_numbers(identities: list[Identity]) -> None:
    two = numbering([BASE, HOST], [BASE, HOST], [(3, 10)])
    numbers = [two.number(identity) for identity in identities]
    assert len(set(numbers)) == len(numbers)
    assert all(ROOT_NUMBER < number < 1 << 64 for number in numbers)


# Nodes


@pytest.fixture
def nodes() -> Nodes:
    nodes = Nodes()
    nodes.add(node(ROOT_NUMBER, stat.S_IFDIR))
    return nodes


def node(number: int, mode: int = stat.S_IFREG, position: int = 0) -> Node:
    source = Source(position, layer(BASE), Entry(Status(mode, number), None))
    made = Node(number, (0, 1, number), mode, None, [source])
    if made.is_directory:
        made.children = {}
    return made


def put(nodes: Nodes, parent: Node, name: bytes, child: Node, below: int = 0) -> Node:
    if child.number not in {known.number for known in nodes}:
        nodes.add(child)
    nodes.add_name(child, parent, name, below)
    return child


def test_a_node_stays_while_it_is_known_or_open(nodes: Nodes) -> None:
    file = put(nodes, nodes[ROOT_NUMBER], b"file", node(5))
    file.lookups = 1
    opened = OpenFile(file, -1, writable=False)
    file.files.append(opened)
    assert nodes.release(file) == []
    file.lookups = 0
    assert nodes.release(file) == []
    file.files.remove(opened)
    assert nodes.release(file) == [file]
    assert len(nodes) == 1


def test_what_only_a_node_kept_goes_with_it(nodes: Nodes) -> None:
    root = nodes[ROOT_NUMBER]
    a = put(nodes, root, b"a", node(5, stat.S_IFDIR))
    b = put(nodes, a, b"b", node(6, stat.S_IFDIR))
    file = put(nodes, b, b"file", node(7))
    file.lookups = 1
    assert nodes.release(a) == nodes.release(b) == []
    file.lookups = 0
    assert nodes.release(file) == [file, b, a]
    assert list(nodes) == [root]
    assert root.known_below == 0


def test_a_directory_stays_for_another_node_in_it(nodes: Nodes) -> None:
    directory = put(nodes, nodes[ROOT_NUMBER], b"d", node(5, stat.S_IFDIR))
    one = put(nodes, directory, b"one", node(6))
    other = put(nodes, directory, b"other", node(7))
    assert nodes.release(one) == [one]
    assert nodes.release(other) == [other, directory]


def test_every_name_of_a_node_keeps_its_directory(nodes: Nodes) -> None:
    root = nodes[ROOT_NUMBER]
    a = put(nodes, root, b"a", node(5, stat.S_IFDIR))
    b = put(nodes, root, b"b", node(6, stat.S_IFDIR))
    file = node(7)
    for parent in (a, b):
        put(nodes, parent, b"file", file)
    file.lookups = 1
    assert nodes.release(a) == nodes.release(b) == []
    file.lookups = 0
    assert set(nodes.release(file)) == {file, a, b}


def test_its_directory_still_knows_each_name_and_its_layer(nodes: Nodes) -> None:
    root = nodes[ROOT_NUMBER]
    file = put(nodes, root, b"one", node(5, position=3), below=3)
    put(nodes, root, b"other", file, below=2)
    assert root.children == {b"one": file, b"other": file}
    nodes.release(file)
    assert root.children == {b"one": 3, b"other": 2}
    assert file.names == []


def test_a_name_that_was_dropped_is_gone(nodes: Nodes) -> None:
    root = nodes[ROOT_NUMBER]
    file = put(nodes, root, b"one", node(5))
    put(nodes, root, b"other", file)
    nodes.drop_name(file, root, b"one")
    assert root.children == {b"other": file}
    assert root.known_below == 1
    with pytest.raises(KeyError):
        file.has_name(root, b"one")
    nodes.drop_name(file, root, b"other")
    assert nodes.release(file) == [file]
    assert root.children == {}


def test_another_file_in_the_names_place_stays(nodes: Nodes) -> None:
    root = nodes[ROOT_NUMBER]
    old = put(nodes, root, b"name", node(5))
    new = put(nodes, root, b"name", node(6))
    nodes.release(old)
    assert root.children == {b"name": new}


def test_releasing_twice_does_nothing(nodes: Nodes) -> None:
    file = put(nodes, nodes[ROOT_NUMBER], b"file", node(5))
    assert nodes.release(file) == [file]
    same_number = put(nodes, nodes[ROOT_NUMBER], b"file", node(5))
    assert nodes.release(file) == []
    assert nodes[5] is same_number


def test_the_root_stays(nodes: Nodes) -> None:
    assert nodes.release(nodes[ROOT_NUMBER]) == []


def test_a_node_is_found_by_its_inode_also_beside_its_number(nodes: Nodes) -> None:
    root = nodes[ROOT_NUMBER]
    first = put(nodes, root, b"first", node(5))
    number = nodes.free(5)
    assert number == 6
    second = node(number)
    second.identity = (0, 2, 5)
    put(nodes, root, b"second", second)
    assert nodes.find((0, 1, 5)) is first
    assert nodes.find((0, 2, 5)) is second
    assert nodes.find((0, 3, 5)) is None


def test_it_is_found_when_what_had_its_number_is_gone(nodes: Nodes) -> None:
    root = nodes[ROOT_NUMBER]
    first = put(nodes, root, b"first", node(5))
    second = node(nodes.free(5))
    second.identity = (0, 2, 5)
    second.lookups = 1
    put(nodes, root, b"second", second)
    assert nodes.release(first) == [first]
    assert nodes.find((0, 2, 5)) is second
