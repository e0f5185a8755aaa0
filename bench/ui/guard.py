"""Pages refuse strangers where Streamlit was put on the network without the token."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address
from typing import Any
from urllib.parse import urlsplit

import streamlit as st

from bench.core.access import protected

_FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Real-Ip")


def refuse_strangers() -> None:
    """Stop the page with a sentence unless the token was asked for or the visitor is on this device.

    Every page calls it first.
    """
    if protected() or _is_local():
        return
    st.error(
        "This address is served without protection, so Earbench shows nothing to other machines. On the device, stop "
        "this server and run `python -m bench serve --lan`: it prints a URL with a token for each of its addresses."
    )
    st.stop()


def _context() -> Any:
    """The visitor's address and headers, as Streamlit has them; tests put their own here."""
    return st.context


def _is_local() -> bool:
    """Whether the visitor is surely on this device: whoever can't be told is foreign."""
    context = _context()
    visitor, headers = context.ip_address, context.headers  # Streamlit says None for 127.0.0.1 and ::1
    if visitor is not None and not isinstance(visitor, str):
        return False
    # Behind a proxy the connection comes from this device, whoever visits.
    if any(name in headers for name in _FORWARDED):
        return False
    # A page from elsewhere whose name was pointed at 127.0.0.1 (DNS rebinding) still bears that name. A session whose
    # browser just left has no headers, and None for an address: it is refused here too.
    return (visitor is None or _is_loopback(visitor)) and is_local_name(headers.get("Host", ""))


def _is_loopback(address: str) -> bool:
    try:
        ip = ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped:  # how a socket for both families sees IPv4
        return ip.ipv4_mapped.is_loopback
    return ip.is_loopback


def is_local_name(host: str) -> bool:
    """Whether a Host header, or the host of an address, names this very device."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return name == "localhost" or name.endswith(".localhost") or _is_loopback(name)
