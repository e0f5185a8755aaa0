"""A module with a mistake in it, as its author may name it in EARBENCH_EXTRA."""

FAMILY = famly  # type: ignore[name-defined]  # noqa: F821
