"""CIFAR-10 as one array for a short training: the real images, or patches of photographs where they are not.

    python -m tests.gpu.real_images FOLDER

writes FOLDER/train_images.npy (N, 3, 32, 32) uint8: half of the training set from the ``cifar10`` that PROBEDIFF_DATA
holds, else patches of the two photographs that scikit-learn ships, and says which.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

NUM_PATCHES = 25_000


def main(folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    unpack = Path(os.environ.get("PROBEDIFF_DATA", "")) / "cifar10" / "unpack.py"
    if unpack.is_file():
        print(f"images: CIFAR-10, the first half of the training set, from {unpack.parent}", flush=True)
        return subprocess.run([sys.executable, str(unpack), str(folder), "--parts", "train_0"]).returncode
    import numpy as np

    from probediff.data import Patches

    print("images: patches of two photographs, for PROBEDIFF_DATA names no folder with cifar10/unpack.py", flush=True)
    np.save(folder / "train_images.npy", Patches(image_size=32, num_images=NUM_PATCHES).load())
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
