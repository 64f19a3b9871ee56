"""What to change where a step does not fit: as advice, from proportions, or tried one by one."""

import math
import sys

from dig_jax import sharding

STATE = ("params", "teacher", "opt_state", "mutable")  # what of the state takes room


def fit(cfg, sizes, make):
    """(figures, {what was tried: its figures}): remedies one after the other, the gentlest first,
    until the step fits or none is left. make: (cfg, sizes) -> figures."""
    figures, tried = make(cfg, sizes), {}
    while not figures["fits"] and (remedy := next_remedy(figures, cfg, sizes)):
        name, cfg, sizes = remedy
        print(f"does not fit by {gb(figures['over_bytes'])}: trying {name}", file=sys.stderr)
        figures = tried[name] = make(cfg, sizes)
    return figures, tried


def next_remedy(figures, cfg, sizes):
    """(its flag, config, mesh sizes), or None where none is left. On top of those before it."""
    count, encoder = math.prod(sizes.values()), cfg["method"].get("encoder") or {}
    state = sum(figures["bytes"][name] for name in STATE)
    if state > figures["memory_bytes"] / 4 and sizes.get("fsdp", 1) < count:
        return f"--mesh=fsdp={count}", cfg, {"fsdp": count}
    if "remat" in encoder and not encoder["remat"]:
        method = {**cfg["method"], "encoder": {**encoder, "remat": True, "scan": True}}
        return (
            "--config.method.encoder.remat=True (and scan=True)",
            {**cfg, "method": method},
            sizes,
        )
    parts = 2 * (cfg.get("accumulate") or 1)
    if figures["accumulates"] and cfg["batch_size"] % (parts * count) == 0:
        return f"--config.accumulate={parts}", {**cfg, "accumulate": parts}, sizes
    return None


def advice(figures, cfg):
    """What to change where it does not fit, the gentlest first; [] where it fits. Sizes are
    proportions, not compilations.
    """
    if figures["fits"]:
        return []
    held = figures["bytes"]
    room = held["total"] - figures["over_bytes"]
    state = sum(held[name] for name in STATE)
    rows = held["temporary"] + held["batch"]
    encoder, found = cfg["method"]["encoder"], []
    if state > room / 4 and figures["mesh"].get("fsdp", 1) < figures["devices"]:
        ways = figures["devices"] // figures["mesh"].get("fsdp", 1)
        found.append(
            f"--mesh=fsdp={figures['devices']}: state of about {gb(state / ways)} a device, now "
            f"{gb(state)}"
        )
    if "remat" in encoder and not encoder["remat"]:
        found.append(
            "--config.method.encoder.remat=True (and scan=True): blocks keep their inputs alone"
        )
    parts = math.ceil(rows / max(room - state, 1)) if room > state else 0
    if parts > 1 and figures["accumulates"]:
        parts = next(
            (n for n in range(parts, cfg["batch_size"] + 1) if cfg["batch_size"] % n == 0), 0
        )
        found.append(f"--config.accumulate={parts}: temporary buffers of about {gb(rows / parts)}")
    if room > state:
        unit = math.prod(figures["mesh"].get(axis, 1) for axis in sharding.ROWS)
        fitting = int(cfg["batch_size"] * (room - state) / rows) // unit * unit
        if fitting:
            devices = math.ceil(figures["devices"] * cfg["batch_size"] / fitting)
            found.append(f"--config.batch_size={fitting}, or {devices} devices along data")
    else:
        found.append(
            f"more devices along fsdp, or larger ones: the state alone is {gb(state)} a device"
        )
    return found


def gb(count):
    """Bytes for people."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count:.0f} B"
