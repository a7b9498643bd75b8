"""A layer into a repository. Apart from it, for what only reads a store is to start at once."""

from __future__ import annotations

from dataclasses import dataclass

from layerstore import digest
from layerstore.catalog import BlobRow
from layerstore.digest import Digest, VerifyingReader
from layerstore.ingest import Claim, Ingested, Tell, ingest
from layerstore.pieces import Reader
from layerstore.repository import Repository


@dataclass(frozen=True, slots=True)
class Wanted:
    """A layer as an image tells of it. digest, size: of the blob, where they are known.

    keep_blob: keep the blob as it comes, too.
    """

    diff_id: Digest
    digest: Digest | None
    size: int | None
    keep_blob: bool


def add_layer(
    repository: Repository, source: Reader, claim: Claim, tell: Tell, *, keep_blob: bool = False
) -> Ingested:
    """Read a layer into the store; the caller closes its lease.

    keep_blob: keep the blob as it comes, too. Raises InvalidContentError, OSError; then the store
    is as it was.
    """

    def keep(row: BlobRow) -> None:
        with repository.catalog.changing():
            repository.catalog.add_blob(row)

    return ingest(
        repository.paths, source, repository.limits, claim, tell, keep=keep if keep_blob else None
    )


def add_wanted(repository: Repository, source: Reader, wanted: Wanted, tell: Tell) -> Ingested:
    """As ``add_layer``, of a layer that has to be what its image says."""
    told = sha256(wanted.digest)
    if wanted.digest is not None and wanted.size is not None and told is None:
        source = VerifyingReader(source, wanted.digest, wanted.size)
    claim = Claim(wanted.diff_id, told, wanted.size)
    return add_layer(repository, source, claim, tell, keep_blob=wanted.keep_blob)


def sha256(told: Digest | None) -> Digest | None:
    """A digest of the kind that the store knows blobs by; None for another, or for none."""
    return told if told is not None and digest.algorithm(told) == "sha256" else None
