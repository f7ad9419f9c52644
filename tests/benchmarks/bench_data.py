"""How much of training on a prepared set is waiting for images: one epoch of a small network.

    python -m tests.benchmarks.bench_data PREPARED [--num_workers 0] [--batch_size 128]

The share is an upper bound: the smaller the network, the more the data weighs.
"""

from __future__ import annotations

import argparse
import resource
import time

import lightning as L
import torch
from lightning.pytorch.profilers import SimpleProfiler

from probediff.data import PreparedImages
from probediff.denoisers import UNet
from probediff.training.module import DiffusionModule

_NEXT = "[_TrainingEpochLoop].train_dataloader_next"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prepared")
    parser.add_argument("--num_workers", type=int, default=0)
    parser.add_argument("--batch_size", type=int, default=128)
    options = parser.parse_args()
    torch.set_flush_denormal(True)
    data = PreparedImages(options.prepared, options.batch_size, options.num_workers)
    network = UNet(
        data.image_size, 3, 6, channels=16, channel_mult=(1, 1, 2), num_res_blocks=1, attention_resolutions=()
    )
    profiler = SimpleProfiler()
    trainer = L.Trainer(
        max_epochs=1,
        profiler=profiler,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    start = time.perf_counter()
    trainer.fit(DiffusionModule(network, num_train_timesteps=1000), datamodule=data)
    seconds = time.perf_counter() - start
    waiting = sum(profiler.recorded_durations[_NEXT])
    images = trainer.global_step * options.batch_size
    print(f"images {images}, {images / seconds:.0f} a second; epoch {seconds:.1f} s; waiting for data {waiting:.2f} s")
    print(f"share of time waiting for data: {100 * waiting / seconds:.2f} %")
    print(f"peak memory of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
