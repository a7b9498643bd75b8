"""The union mount: layers below, one writable layer above, seen as one tree."""

__version__ = "0.1.0"
