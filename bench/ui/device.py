"""The Device page's upper half: what the device is, which modes run on it, sound and network, each with its fix."""

from __future__ import annotations

import shutil

import pandas as pd
import streamlit as st

from bench import modes
from bench.core import paths
from bench.core.access import protected
from bench.core.units import size
from bench.device import cpu, host
from bench.jobs.manager import Jobs
from bench.modes.probe import Availability, availability
from bench.sound import audio
from bench.ui import microphone

STATES = ("available", "emulated", "unavailable")
_FIX = "; fix: "  # what stands behind it in a remark is a command


def busy(jobs: Jobs) -> str:
    """Why the cache must be left alone just now; "" if it need not."""
    if job := jobs.live:
        return (
            f"{job.what} is under way, and packing, clearing or taking in artefacts beside it would spoil its times: "
            "they are free again when it has ended."
        )
    return jobs.holder() or ""


def facts() -> None:
    """Processor, memory and disk, system and versions."""
    d = host.device()
    one, two, three = st.columns(3)
    one.metric("Processor", f"{cpu.default_threads()} of {d.cores} cores")
    one.caption(d.cpu + (", in a virtual machine" if d.virtual else ""))
    two.metric("Memory", size(cpu.memory_bytes()))
    two.caption(f"{size(cpu.available_memory_bytes())} free now")
    three.metric("Free disk", size(shutil.disk_usage(paths.data_folder()).free))
    three.caption(f"in `{paths.data_folder()}`")
    lines = (
        ("Instructions that matter for quantization", ", ".join(d.isa) or "not told by this device"),
        ("Clock governor", d.governor or "not told by this device"),
        ("System", f"{d.os}, {d.machine}, as {d.name}"),
        ("Versions", ", ".join(f"{name} {version}" for name, version in _versions().items())),
    )
    st.markdown("\n".join(f"- **{name}:** {_plain(value)}" for name, value in lines))
    if d.governor == "powersave":
        st.warning(
            "The clock governor is “powersave”, so latencies will vary. While you measure: "
            "`sudo cpupower frequency-set -g performance`",
            icon=":material/speed:",
        )


def _versions() -> dict[str, str]:
    """Of Python, of the dashboard, and of every engine that some mode needs."""
    engines = {
        p for mode in modes.modes().values() for p in (*mode.SPEC.needs.packages, *mode.SPEC.needs.build_packages)
    }
    return host.versions(tuple(dict.fromkeys((*host.PACKAGES, *sorted(engines)))))


def mode_table() -> None:
    """Every mode: whether it runs here, why not, and the commands that mend it."""
    with st.spinner("Asking which modes run here …"):
        found = availability()
    rows = {name: (mode, found[name], *told(found[name])) for name, mode in modes.modes().items()}
    counts = [f"{sum(a.state == state for a in found.values())} {state}" for state in STATES]
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
        height=38 + 35 * len(rows),  # all of it: a table that scrolls within a page is easily overlooked
        column_config={"Why, or how": st.column_config.TextColumn(width="medium")},
    )
    by_fix: dict[str, list[str]] = {}
    for name, (_, a, reason, fix) in rows.items():
        if fix:
            by_fix.setdefault(fix, []).append(name)
        elif a.state != "available":
            st.markdown(f"**{name}** is {a.state}: {_plain(reason)}")
    for fix, names in by_fix.items():
        st.markdown(f"To have **{', '.join(names)}**:")
        st.code(fix, language="sh")


def told(a: Availability) -> tuple[str, str]:
    """A mode's remark as (the reason, the command that mends it); either may be empty."""
    reason, _, fix = a.remark.partition(_FIX)
    return reason.removeprefix("emulated: "), fix


def sound() -> None:
    """Microphones through PortAudio, and ffmpeg."""
    found = microphone.inputs("device")
    if isinstance(found, str):
        st.warning(found, icon=":material/mic_off:")
    else:
        st.markdown(
            f"PortAudio lists {len(found)} microphone{'s' * (len(found) > 1)}:\n"
            + "\n".join(
                f"- {_plain(i.name)} ({_plain(i.host_api)}), {i.default_rate_hz / 1000:g} kHz"
                + (", the default" if i.is_default else "")
                for i in found
            )
        )
    if problem := audio.ffmpeg_missing():
        st.warning(problem, icon=":material/library_music:")
    else:
        st.markdown("ffmpeg is here, so M4A, AAC and WebM can be read besides WAV, FLAC, OGG, Opus and MP3.")


def network() -> str:
    """How this dashboard is served, and the command for the other way."""
    if protected():
        return "This dashboard is open to the network, behind the token that was printed where it was started."
    return (
        "This dashboard shows its pages to this machine alone. To open it from another one, behind a token: "
        "`python -m bench serve --lan`"
    )


def _plain(text: str) -> str:
    """Text that Markdown leaves as it is."""
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>#|$~" else c for c in text)
