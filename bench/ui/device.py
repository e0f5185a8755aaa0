"""The upper half of the Device page: facts, modes, sound and network, each with the fix for what is missing."""

from __future__ import annotations

import shutil

import pandas as pd
import streamlit as st

from bench import modes
from bench.core import paths
from bench.core.access import protected
from bench.core.markdown import plain
from bench.core.units import size
from bench.device import cpu, host
from bench.modes.probe import Availability
from bench.sound import audio
from bench.ui import menus, microphone

STATES = ("available", "emulated", "unavailable")
_FIX = "; fix: "  # in a remark, the text after this is a command


def facts() -> None:
    """Draw processor, memory and disk, system and versions."""
    device = host.device()
    one, two, three = st.columns(3)
    one.metric("Processor", f"{cpu.default_threads()} of {device.cores} cores")
    one.caption(device.cpu + (", in a virtual machine" if device.virtual else ""))
    two.metric("Memory", size(cpu.memory_bytes()))
    two.caption(f"{size(cpu.available_memory_bytes())} free now")
    three.metric("Free disk", size(shutil.disk_usage(paths.data_folder()).free))
    three.caption(f"in `{paths.data_folder()}`")
    lines = (
        ("Instructions that matter for quantization", ", ".join(device.isa) or "not reported by this device"),
        ("Clock governor", device.governor or "not reported by this device"),
        ("System", f"{device.os}, {device.machine}, as {device.name}"),
        ("Versions", ", ".join(f"{name} {version}" for name, version in _versions().items())),
    )
    st.markdown("\n".join(f"- **{name}:** {plain(value)}" for name, value in lines))
    if device.governor == "powersave":
        st.warning(
            "The clock governor is “powersave”, so latencies will vary. While you measure: "
            "`sudo cpupower frequency-set -g performance`",
            icon=":material/speed:",
        )


def _versions() -> dict[str, str]:
    """Return the versions of Python, of the dashboard, and of every engine that a mode needs."""
    engines = {
        p for mode in modes.modes().values() for p in (*mode.SPEC.needs.packages, *mode.SPEC.needs.build_packages)
    }
    return host.versions(tuple(dict.fromkeys((*host.PACKAGES, *sorted(engines)))))


def mode_table() -> None:
    """Draw every mode: whether it runs here, why not, and the commands that fix it."""
    availabilities = menus.at_hand()
    if availabilities is None:
        menus.checking()
        return
    rows = {
        name: (mode, availabilities[name], *_state_and_fix(availabilities[name]))
        for name, mode in modes.modes().items()
    }
    counts = [f"{sum(a.state == state for a in availabilities.values())} {state}" for state in STATES]
    st.markdown(f"{len(rows)} modes: {', '.join(c for c in counts if not c.startswith('0 '))}.")
    st.dataframe(
        pd.DataFrame(
            {
                "Mode": name,
                "Here": a.state,
                "Why, or how": reason,
                "Weights": mode.SPEC.weights.text,
            }
            for name, (mode, a, reason, _) in rows.items()
        ),
        hide_index=True,
        width="stretch",
        placeholder="–",
        height=38 + 35 * len(rows),  # all rows: a table that scrolls within a page is easily overlooked
        column_config={"Why, or how": st.column_config.TextColumn(width="medium")},
    )
    by_fix: dict[str, list[str]] = {}
    for name, (_, a, reason, fix) in rows.items():
        if fix:
            by_fix.setdefault(fix, []).append(name)
        elif a.state != "available":
            st.markdown(f"**{name}** is {a.state}: {plain(reason)}")
    for fix, names in by_fix.items():
        st.markdown(f"To enable **{', '.join(names)}**:")
        st.code(fix, language="sh")


def _state_and_fix(a: Availability) -> tuple[str, str]:
    """Split a mode's remark into (the reason, the command that fixes it). Either may be empty."""
    reason, _, fix = a.remark.partition(_FIX)
    return reason.removeprefix("emulated: "), fix


def sound() -> None:
    """Draw the microphones that PortAudio lists, and whether ffmpeg is installed."""
    listing = microphone.inputs("device")
    if isinstance(listing, str):
        st.warning(listing, icon=":material/mic_off:")
    else:
        st.markdown(
            f"PortAudio lists {len(listing)} microphone{'s' * (len(listing) > 1)}:\n"
            + "\n".join(
                f"- {plain(i.name)} ({plain(i.host_api)}), {i.default_rate_hz / 1000:g} kHz"
                + (", the default" if i.is_default else "")
                for i in listing
            )
        )
    if problem := audio.ffmpeg_missing():
        st.warning(problem, icon=":material/library_music:")
    else:
        st.markdown("ffmpeg is here, so M4A, AAC and WebM can be read besides WAV, FLAC, OGG, Opus and MP3.")


def network() -> str:
    """Return how this dashboard is served, and the command for the other way."""
    if protected():
        return "This dashboard is open to the network, behind the token that was printed where it was started."
    return (
        "This dashboard shows its pages to this machine alone. To open it from another one, behind a token: "
        "`python -m bench serve --lan`"
    )
