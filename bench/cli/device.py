"""What there is to measure and to measure it on: models, modes, and the device with what it lacks."""

from __future__ import annotations

from bench import modes as all_modes
from bench.cli import console
from bench.core import paths
from bench.device import cpu, host
from bench.families import catalogue
from bench.jobs import state


def list_models() -> None:
    """List the models."""
    table = console.table("weights, millions", "what it is", first="model")
    for c in catalogue.catalogue():
        family = catalogue.family(c)
        parameters = family.profile(c.config, family.COVERAGE_SIZE).parameters
        table.add_row(c.name, f"{parameters / 1e6:.0f}", c.note)
    table.add_row("PATH", "", f"a folder on this device that holds {catalogue.accepted()}")
    console.out.print(table)


def list_modes() -> None:
    """List the quantization modes and whether they run here."""
    table = console.table("here", "what it quantizes", first="mode")
    availabilities = console.availability()
    for name, mode in all_modes.modes().items():
        a = availabilities[name]
        settings = "".join(f"\n  :{k}={o.default or '…'} ({o.range}): {o.help}" for k, o in mode.SPEC.settings.items())
        description = f"{mode.SPEC.weights.text}. Activations: {mode.SPEC.activations.text}{settings}"
        table.add_row(name, f"{a.state}{': ' if a.remark else ''}{a.remark}", description)
    console.out.print(table)
    if any(mode.SPEC.settings for mode in all_modes.modes().values()):
        console.out.print("Settings are written behind the mode: MODE:setting=value:setting=value")


def doctor() -> None:
    """Show what this device is, what it can do, and how to fix what is missing."""
    device = host.device()
    for name, value in (
        ("device", f"{device.name} ({device.id}){', a virtual machine' if device.virtual else ''}"),
        ("processor", f"{device.cpu}, {device.cores} cores, {cpu.default_threads()} usable"),
        ("instructions", " ".join(device.isa) or "unknown"),
        ("memory", f"{device.ram_bytes / 1e9:.1f} GB, {cpu.available_memory_bytes() / 1e9:.1f} GB available"),
        ("governor", device.governor or "not reported here"),
        ("system", device.os),
        ("versions", ", ".join(f"{k} {v}" for k, v in device.versions.items())),
        ("data folder", str(paths.data_folder())),
    ):
        console.out.print(f"{name:13} {value}")
    with console.sentences():
        store, holder = console.store(), state.lease().holder()
        console.out.print(f"{'database':13} runs: {len(store.runs())}, evaluations: {len(store.evaluations())}")
        console.out.print(f"{'in use':13} {holder.sentence if holder else 'no'}")
    if device.governor == "powersave":
        console.out.print("The clock governor is “powersave”: latencies will vary. Set “performance” while measuring.")
    states = console.availability()
    console.out.print(f"{'modes':13} {sum(a.state == 'available' for a in states.values())} of {len(states)} available")
    missing = console.table("here", first="mode")
    for name, a in states.items():
        if a.remark:
            missing.add_row(name, f"{a.state}: {a.remark}")
    if missing.row_count:
        console.out.print(missing)
    console.out.print("What each quantizes and what can be set: python -m bench modes")
