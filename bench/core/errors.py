"""The base of all errors that people cause and can mend."""

from __future__ import annotations


class EarbenchError(Exception):
    """The text is one or more sentences for people: what came, what is allowed, and how to fix it.

    Pages and the command line show it as it is. A package's own errors derive from it.
    """
