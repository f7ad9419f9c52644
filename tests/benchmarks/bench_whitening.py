"""Time and peak memory of whitening statistics on prepared images.

`python -m tests.benchmarks.bench_whitening PREPARED` streams the arrays PREPARED/*.npy, (N, C, H, W) uint8 each, as
`probediff prepare` writes them, and decomposes their covariance. The peak is the resident set of the process.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from probediff.commands.cpu import set_up_cpu
from probediff.measures.covariance import moments
from probediff.measures.whitening import WhiteningTransform
from tests.benchmarks.harness import peak_gib

BATCH = 1024


def batches(folder: Path) -> Iterator[Tensor]:
    for path in sorted(folder.glob("*.npy")):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        for start in range(0, len(array), BATCH):
            yield torch.from_numpy(array[start : start + BATCH].astype(np.float32)) / 127.5 - 1


def bench_statistics(folder: Path) -> None:
    start = time.perf_counter()
    found = moments(batches(folder))
    after = time.perf_counter()
    count, size = found.num_samples, len(found.mean)
    print(f"N = {count}, D = {size}, {torch.get_num_threads()} threads", flush=True)
    print(f"covariance         {after - start:8.1f} s, peak {peak_gib():.2f} GiB", flush=True)
    whitening = WhiteningTransform.from_covariance(found.mean, found.covariance)
    print(f"eigendecomposition {time.perf_counter() - after:8.1f} s, peak {peak_gib():.2f} GiB", flush=True)
    largest, smallest = float(whitening.eigenvalues[0]), float(whitening.eigenvalues[-1])
    print(f"eigenvalues {largest:.4g} .. {smallest:.4g}, condition {largest / smallest:.3g}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, metavar="PREPARED", help="folder of arrays")
    set_up_cpu()
    bench_statistics(parser.parse_args().images)


if __name__ == "__main__":
    main()
