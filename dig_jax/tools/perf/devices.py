"""What devices can do at most, for `plan`: one table, from the vendors' data sheets.

Dense bfloat16 products summed in float32; gigabytes are 1e9 bytes; link and network are one
direction of one device. Sources, by name of the document:

- NVIDIA: the data sheets "H200 Tensor Core GPU", "H100 Tensor Core GPU", "A100 80GB" (SXM) and
  "L4". Their tensor-core figures with sparsity are halved. NVLink's figure is both directions
  together.
- Google Cloud: the system architecture pages "TPU v4", "TPU v5e", "TPU v5p" and "TPU v6e". Their
  interchip interconnect is of a chip, both directions together.

`network_gb_s` is no property of the device but of the cluster around it. 400 Gb/s a GPU (200 for
A100, 100 for L4) and 50 Gb/s a TPU chip are assumptions.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Device:
    """tflops: dense bfloat16. memory_gb, memory_gb_s: capacity and bandwidth of its memory.
    link_gb_s: to the `node` devices it is linked with directly (a server's NVLink, a TPU pod's
    interconnect). network_gb_s: to all others. dtype: what "auto" means on it for a ViT; other
    encoders pass nothing in bfloat16 between their layers."""

    tflops: float
    memory_gb: float
    memory_gb_s: float
    link_gb_s: float
    node: int
    network_gb_s: float
    dtype: str = "bfloat16"


NVIDIA = "bfloat16_stored"
DEVICES = {
    "h200": Device(989, 141, 4800, 450, 8, 50, NVIDIA),
    "h100": Device(989, 80, 3350, 450, 8, 50, NVIDIA),
    "a100": Device(312, 80, 2039, 300, 8, 25, NVIDIA),
    "l4": Device(121, 24, 300, 32, 8, 12.5, NVIDIA),
    "v4": Device(275, 32, 1228, 300, 4096, 6.25),
    "v5e": Device(197, 16, 819, 200, 256, 6.25),
    "v5p": Device(459, 95, 2765, 600, 8960, 6.25),
    "v6e": Device(918, 32, 1640, 400, 256, 6.25),
}
