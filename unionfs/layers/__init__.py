"""Kinds of layers, behind the one interface of :mod:`unionfs.layers.base`."""
