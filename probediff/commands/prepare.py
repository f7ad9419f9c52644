"""Decode an image set once, into files that training reads without decoding.

Examples:
  probediff prepare imagenet64 ~/imagenet/train ~/imagenet64
  probediff prepare imagenet64 ILSVRC2012_img_train.tar ~/imagenet64 --num_workers 16
  probediff prepare imagenet64 ~/imagenet/train ~/imagenet64 --verify
  probediff prepare stream ~/imagenet64 ~/imagenet64-stream

Train on the result:
  probediff fit --config configs/imagenet64.yaml --data.path ~/imagenet64
"""

import argparse
import inspect
import os
from collections.abc import Sequence
from pathlib import Path

from probediff.commands.runner import light_parser, run_command


def build_parser() -> argparse.ArgumentParser:
    """All options of the command."""
    parser = light_parser("prepare", __doc__)
    targets = parser.add_subparsers(dest="target", required=True, metavar="TARGET")
    images = targets.add_parser(
        "imagenet64",
        help="ImageNet (or other images) to 64 x 64 pixels, mapped into memory",
        description=inspect.getdoc(_imagenet64),
        formatter_class=parser.formatter_class,
    )
    images.add_argument(
        "source",
        metavar="SOURCE",
        type=Path,
        help="folder of class folders, ILSVRC2012_img_train.tar as it is distributed, or a folder of class tars",
    )
    images.add_argument("out", metavar="OUT", type=Path, help="folder of the result: new, or one to go on with")
    images.add_argument("--image_size", type=int, default=64, help="height and width in pixels (default: 64)")
    cores = len(os.sched_getaffinity(0))
    images.add_argument("--num_workers", type=int, default=cores, help=f"processes (default: all cores, {cores} here)")
    images.add_argument(
        "--verify",
        action="store_true",
        help="only compare a finished OUT with its checksums; SOURCE is not read and nothing is written",
    )
    images.set_defaults(work=_imagenet64)
    stream = targets.add_parser(
        "stream",
        help="a prepared set to chunks that litdata streams",
        description=inspect.getdoc(_stream),
        formatter_class=parser.formatter_class,
    )
    stream.add_argument("prepared", metavar="PREPARED", type=Path, help="folder that `prepare imagenet64` made")
    stream.add_argument("out", metavar="OUT", type=Path, help="folder of the chunks, new or empty")
    stream.set_defaults(work=_stream)
    return parser


def prepare(arguments: Sequence[str]) -> int:
    """``probediff prepare``: returns the exit status."""
    # The workers are processes already: threads of NumPy's linear algebra, unused here, would only cost memory.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    stopped = "stopped; start the same command again to go on"
    return run_command(build_parser(), arguments, lambda options: options.work(options), stopped)


def _imagenet64(options: argparse.Namespace) -> None:
    """Decode every image of SOURCE once, reduce it to a square of 64 x 64 pixels as Nichol & Dhariwal did
    (box averages, then bicubic, then the centre), and write it to OUT, from where training maps it into memory.

    The command may be stopped at any time, even by kill -9 or a power cut: start it again and it goes on. Interrupted
    or not, OUT holds the same bytes in the end. Files that cannot be read are left out, counted, and listed with the
    reason in OUT/unreadable.tsv.
    """
    from probediff.prepare.images import prepare_images
    from probediff.prepare.manifest import UNREADABLE, verify

    out = options.out.expanduser()
    if options.verify:
        manifest = verify(out)
        print(f"{out}: {manifest.num_images} images in {len(manifest.shards)} shards match their checksums")
        return
    manifest = prepare_images(options.source.expanduser(), out, options.image_size, options.num_workers)
    size = manifest.identity.image_size
    text = f"{out}: {manifest.num_images} images of {size} x {size} pixels in {len(manifest.shards)} shards"
    if failed := len(manifest.unreadable):
        text += f"; {failed} of {manifest.identity.num_entries} files could not be read, see {out / UNREADABLE}"
    print(text)


def _stream(options: argparse.Namespace) -> None:
    """Copy a prepared set to the chunks of litdata, for sets that are larger than the disk of the machine that
    trains. Copy OUT to a bucket and train with --data StreamedImages --data.url s3://BUCKET/FOLDER
    --data.image_size 64. Needs litdata: pip install 'probediff[stream]'.
    """
    from probediff.prepare.stream import write_stream

    manifest = write_stream(options.prepared.expanduser(), options.out.expanduser())
    print(f"{options.out}: {manifest.num_images} images in chunks of litdata")
