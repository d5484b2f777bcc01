"""All land of ten years of Sentinel-2 on 16 to 1,000 nodes, on paper: `python -m benchmarks.embed2scale`.

The Embed2Scale project names 22 PB a modality, 3,000 A100 GPU-days, 520 days of transfer and 8 million dollars of
egress. Here these figures are taken apart, and the campaign goes through the model of `campaign_model.py`. Every
assumption is a constant with its reason; none of it was run.
"""

from dataclasses import dataclass

import numpy as np

from benchmarks.simulate import FILES, PACKS, Writer, run, table
from embedcube.prepare.makespan import CALLS_TO_READ, Machine, Spread, Work

ARCHIVE_BYTES = 22e15
GPU_DAYS = 3_000
TRANSFER_DAYS = 520
EGRESS_DOLLARS = 8e6
"""these four as the project names them"""

LAND_KM2 = 149e6
YEARS = 10
TOKEN_M = 160
"""side of a token: 16 pixels of 10 m"""
FEATURES = 768
SCENES_A_MONTH = 6
"""acquisitions of a place, two satellites, five days"""
FILES_A_SCENE = 11
"""ten bands and the scene classification"""
MODELLED = 120_000
"""shards of the model: each stands for thousands, as 300 million would take hours to simulate. So the last 1 % is
longer here than it would be"""
SPREAD = 0.4
"""sigma of the logarithm of a shard's cost: 0.3 to 0.5 in the runs that were measured"""
NODES = (16, 64, 256, 1000)


@dataclass(frozen=True, kw_only=True)
class Product:
    """One kind of cube of all land."""

    name: str
    windows: int
    cells: float
    """of one window"""
    features: int

    @property
    def size(self) -> float:
        """Bytes: int8 vectors, and for each cell a scale (4), a status and a count of observations."""
        return self.windows * self.cells * (self.features + 6)


def main() -> None:
    """Print the figures taken apart, what embeddings weigh, and the campaign on several numbers of nodes."""
    rate, archive = ARCHIVE_BYTES / (TRANSFER_DAYS * 86400), f"{ARCHIVE_BYTES / 1e15:.0f} PB"
    print(f"{TRANSFER_DAYS} days for {archive} are {rate / 1e6:.0f} MB/s ({8 * rate / 1e9:.1f} Gbit/s)")
    print(f"{EGRESS_DOLLARS / 1e6:.0f} M$ for it are {EGRESS_DOLLARS / (ARCHIVE_BYTES / 1e9):.2f} $ a GB")
    device = ARCHIVE_BYTES / (GPU_DAYS * 86400)
    print(f"{GPU_DAYS:,} GPU-days for it are {device / 1e6:.0f} MB/s a GPU\n")
    tokens = LAND_KM2 * 1e6 / TOKEN_M**2
    pixels = LAND_KM2 * 1e6 / 100
    products = (
        Product(name="tokens of 160 m x 768, each month", windows=12 * YEARS, cells=tokens, features=FEATURES),
        Product(name="tokens of 160 m x 768, each season", windows=4 * YEARS, cells=tokens, features=FEATURES),
        Product(name="tokens of 160 m x 768, each year", windows=YEARS, cells=tokens, features=FEATURES),
        Product(name="pixels of 10 m x 128, each year", windows=YEARS, cells=pixels, features=128),
    )
    print("| cube, int8, before compression | TB | of the archive | days at the same rate |")
    print("|---|---:|---:|---:|")
    for one in products:
        days = one.size / rate / 86400
        print(f"| {one.name} | {one.size / 1e12:,.0f} | 1 / {ARCHIVE_BYTES / one.size:.0f} | {days:.1f} |")
    for writer, side in ((FILES, 48), (PACKS, 48), (PACKS, 96)):
        print(f"\neach month, {writer.name}, shards of {side} x {side} tokens")
        rows = [(n, run(work(writer, side), writer, Machine(nodes=n), 1, tasks(n))) for n in NODES]
        print("\n".join(table(rows)))


def work(writer: Writer, side: int) -> Work:
    """The shards of the monthly cube; each of the model stands for many, and has their metadata calls together."""
    shards = 12 * YEARS * LAND_KM2 * 1e6 / TOKEN_M**2 / side**2
    count = MODELLED
    random = np.random.default_rng(1)
    share = random.lognormal(0, SPREAD, count)
    share /= share.sum()
    calls = CALLS_TO_READ * FILES_A_SCENE * SCENES_A_MONTH + writer.calls_a_shard
    return Work(
        # readers keep up with the device where the file system gives what they ask for
        read_s=0.9 * GPU_DAYS * 86400 * share,
        device_s=GPU_DAYS * 86400 * share,
        read_bytes=ARCHIVE_BYTES * share,
        # `run` adds those of writing once for each shard of the model
        calls=np.full(count, shards / count * calls - writer.calls_a_shard),
        group=1,
    )


def tasks(nodes: int) -> Spread:
    """Tasks of one node, of at most six hours."""
    return Spread(tasks=max(nodes, GPU_DAYS))


if __name__ == "__main__":
    main()
