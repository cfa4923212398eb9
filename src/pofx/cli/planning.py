"""``pofx plan``: what a run will take, in a few lines."""

import argparse
from pathlib import Path

from pofx.cli.bar import page
from pofx.cli.commands import fit_arguments
from pofx.files import write_json
from pofx.planning import UTILISATION, Devices, Plan, plan

_NOT_PLANNED = ("out", "logger", "devices", "strategy")  # what a file may say to fit that changes nothing here


def plan_and_show(options: argparse.Namespace) -> int:
    """Plans, prints, writes what was asked for."""
    share = UTILISATION if options.utilisation is None else options.utilisation
    devices = Devices.parse(options.on, share) if options.on else None
    del options.on, options.utilisation
    given = {name: value for name, value in fit_arguments(options).items() if name not in _NOT_PLANNED}
    planned = plan(**given)
    for line in _lines(planned, devices):
        page().print(line, highlight=False, soft_wrap=True)
    if options.json:
        elsewhere = None
        if devices:
            elsewhere = {
                "devices": devices.count, "flops_per_second": devices.rate, "utilisation": devices.utilisation,
                "rounds_seconds": planned.seconds_on(devices),
            }  # fmt: skip
        write_json(Path(options.json), planned.to_json() | {"on": elsewhere})
    return 0


def _lines(p: Plan, devices: Devices | None) -> list[str]:
    threads = f"{p.threads} thread" + "s" * (p.threads != 1)
    lines = [
        f"{p.model} on {p.source}, {p.device}, {threads}",
        f"  parameters  {p.parameters:,}",
        f"  operations  {_si(p.flops)}FLOP a step, {_si(p.flops * p.steps)}FLOP in all "
        "(matrix products, convolutions and attention; forward, backward and optimiser)",
        f"  memory      {_mib(p.peak)} at the peak: "
        + ", ".join(f"{_mib(size)} {name}" for name, size in p.memory.items() if size),
        f"              of the base, {_mib(p.data_bytes)} are data",
        f"  time        {_clock(p.total_seconds)}: "
        + ", ".join(f"{_clock(spent)} {name}" for name, spent in p.seconds.items() if spent),
    ]
    if p.steps:
        rate, speed = p.observations / p.round_seconds, p.flops / p.round_seconds
        lines.append(
            f"              {p.steps:,} steps at {1000 * p.round_seconds:.3g} ms, {rate:,.0f} observations/s, "
            f"{_si(speed)}FLOP/s"
        )
    if devices:
        lines.append(
            f"  elsewhere   {_clock(p.seconds_on(devices))} for the steps on {devices.count} devices of "
            f"{_si(devices.rate)}FLOP/s at {devices.utilisation:.0%}, at no cost of communication"
        )
    return lines


def _si(value: float) -> str:
    """Three digits with the prefix of the power of a thousand: 1.23e9 -> "1.23 G"."""
    for power, prefix in ((18, "E"), (15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if value >= 10**power:
            return f"{value / 10**power:.3g} {prefix}"
    return f"{value:.3g} "


def _mib(size: float) -> str:
    return f"{size / 2**20:.3g} MiB" if size < 100 * 2**20 else f"{size / 2**20:,.0f} MiB"


def _clock(spent: float) -> str:
    """Seconds for people: "0.45 s", "12 s", "3 min", "5.2 h", "3.1 d"."""
    for unit, length in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if spent >= 2 * length:
            return f"{spent / length:.3g} {unit}"
    return f"{spent:.2g} s" if spent < 10 else f"{spent:.0f} s"
