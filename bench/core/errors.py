"""The base class of all errors that users cause and can fix."""

from __future__ import annotations


class EarbenchError(Exception):
    """An error whose text is one or more sentences for users: what was received, what is allowed, how to fix it.

    Pages and the command line show the text unchanged. Each package's errors derive from this class.
    """
