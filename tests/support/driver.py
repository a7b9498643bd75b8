"""Which driver the tests' unions are to have: pytest's option `--driver`."""

chosen: str | None = None
"""None, outside of pytest, for what unionmount takes by itself."""


def options() -> tuple[str, ...]:
    """The mount options that ask for it."""
    return () if chosen is None else (f"driver={chosen}",)


def words() -> tuple[str, ...]:
    """The words of a command line that ask for it."""
    return tuple(word for option in options() for word in ("-o", option))
