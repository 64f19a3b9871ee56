"""NVIDIA cards as XLA's GPU compiler knows them, so that it compiles for one that is not here.

What stands here is what the CUDA runtime answers on such a card (cudaDeviceProp). Sources: the
tables of compute capabilities in the CUDA C++ Programming Guide, and the data sheets that
devices.py names.
"""

COMMON = {
    "threads_per_block_limit": 1024,
    "threads_per_warp": 32,
    "shared_memory_per_block": 48 * 1024,
    "threads_per_core_limit": 2048,
    "block_dim_limit_x": 2**31 - 1,
    "block_dim_limit_y": 65535,
    "block_dim_limit_z": 65535,
    "registers_per_core_limit": 65536,
    "registers_per_block_limit": 65536,
}
# shared memory of a multiprocessor and of a block, 32-bit units of a multiprocessor
AMPERE = {"shared_memory_per_core": 164 << 10, "shared_memory_per_block_optin": 163 << 10}
AMPERE |= {"fpus_per_core": 64}
HOPPER = {"shared_memory_per_core": 228 << 10, "shared_memory_per_block_optin": 227 << 10}
HOPPER |= {"fpus_per_core": 128}
CARDS = {  # name, compute capability, multiprocessors, clock in GHz, L2 in MiB, family
    "a100": ("NVIDIA A100-SXM4-80GB", (8, 0), 108, 1.41, 40, AMPERE),
    "h100": ("NVIDIA H100 80GB HBM3", (9, 0), 132, 1.98, 50, HOPPER),
    "h200": ("NVIDIA H200", (9, 0), 132, 1.98, 60, HOPPER),
}


def target(card: str, memory_gb: float, memory_gb_s: float) -> str:
    """The description that XLA reads, as text (GpuTargetConfigProto)."""
    name, (major, minor), cores, clock, cache, family = CARDS[card]
    numbers = COMMON | family | {"core_count": cores, "clock_rate_ghz": clock}
    numbers |= {"l2_cache_size": cache << 20, "device_memory_size": int(memory_gb * 1e9)}
    numbers |= {"memory_bandwidth": int(memory_gb_s * 1e9)}
    fields = " ".join(f"{field}: {value}" for field, value in numbers.items())
    version = f"cuda_compute_capability {{ major: {major} minor: {minor} }}"
    return (
        f'gpu_device_info {{ {fields} {version} }} platform_name: "CUDA" '
        f'dnn_version_info {{ major: 9 minor: 10 }} device_description_str: "{name}"'
    )


def capability(card: str) -> str | None:
    """ "9.0", the compute capability; None for a card that is not known."""
    return ".".join(map(str, CARDS[card][1])) if card in CARDS else None
