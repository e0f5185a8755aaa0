"""Whether every request that reaches this process has passed the token.

The pages' scripts run in the server's own process and find this very module in `sys.modules`. A copy of it, or a server
that was started otherwise, says no, which refuses.
"""

from __future__ import annotations

_protected = False


def protected() -> bool:
    """Whether the token is asked for; pages ask through `bench.ui.guard`."""
    return _protected


def set_protected(value: bool) -> None:
    """For the launcher alone, once the token stands in front of the application."""
    global _protected
    _protected = value
