"""Refuse visitors from other machines where Streamlit is on the network without the token."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address
from typing import Any
from urllib.parse import urlsplit

import streamlit as st

from bench.core.access import protected

_FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Real-Ip")


def refuse_strangers() -> None:
    """Stop the page with a sentence, unless the token protects the server or the visitor is on this device.

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
    """Return the visitor's address and headers, as Streamlit has them. Tests replace this function."""
    return st.context


def _is_local() -> bool:
    """Return whether the visitor is surely on this device. Where that can't be known, the visitor is foreign."""
    context = _context()
    visitor, headers = context.ip_address, context.headers  # Streamlit reports None for 127.0.0.1 and ::1
    if visitor is not None and not isinstance(visitor, str):
        return False
    # Behind a proxy, the connection comes from this device, wherever the visitor is.
    if any(name in headers for name in _FORWARDED):
        return False
    # A foreign page whose name now resolves to 127.0.0.1 (DNS rebinding) still sends that name as Host. A session whose
    # browser just left has no headers, and None as its address: it is refused here too.
    return (visitor is None or _is_loopback(visitor)) and is_local_name(headers.get("Host", ""))


def _is_loopback(address: str) -> bool:
    try:
        ip = ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped:  # how a dual-stack socket sees IPv4
        return ip.ipv4_mapped.is_loopback
    return ip.is_loopback


def is_local_name(host: str) -> bool:
    """Return whether a Host header, or the host of an address, names this device."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return name == "localhost" or name.endswith(".localhost") or _is_loopback(name)
