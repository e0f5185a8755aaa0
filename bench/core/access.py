"""Whether every request that reaches this process has passed the token check.

The pages' scripts run in the server's own process and get this same module from `sys.modules`. In a second copy of the
module, or in a server that was started another way, the flag is False and access is refused.
"""

from __future__ import annotations

_protected = False


def protected() -> bool:
    """Whether requests must carry the token. Pages check it through `bench.ui.guard`."""
    return _protected


def set_protected(value: bool) -> None:
    """Set the flag. Only the launcher does so, once the token check is in front of the application."""
    global _protected
    _protected = value
