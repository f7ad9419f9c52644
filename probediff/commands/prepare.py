"""The command ``probediff prepare``."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

_EXAMPLES = """examples:
  probediff prepare imagenet64 ~/imagenet/train ~/imagenet64
  probediff prepare imagenet64 ILSVRC2012_img_train.tar ~/imagenet64 --num_workers 16
  probediff prepare imagenet64 ~/imagenet/train ~/imagenet64 --verify
  probediff prepare stream ~/imagenet64 ~/imagenet64-stream

Train on the result:
  probediff fit --config configs/imagenet64.yaml --data.path ~/imagenet64"""

_IMAGENET = """Decode every image of SOURCE once, reduce it to a square of 64 x 64 pixels as Nichol & Dhariwal did
(box averages, then bicubic, then the centre), and write it to OUT, from where training maps it into memory.

The command may be stopped at any time, even by kill -9 or a power cut: start it again and it goes on. Interrupted or
not, OUT holds the same bytes in the end. Files that cannot be read are left out, counted, and listed with the reason in
OUT/unreadable.tsv."""

_STREAM = """Copy a prepared set to the chunks of litdata, for sets that are larger than the disk of the machine that
trains. Copy OUT to a bucket and train with --data StreamedImages --data.url s3://BUCKET/FOLDER --data.image_size 64.
Needs litdata: pip install 'probediff[stream]'."""


def prepare(arguments: Sequence[str]) -> int:
    """``probediff prepare``: returns the exit status; an error that the user can cure is printed in one line."""
    options = _parser().parse_args(arguments)
    # The workers are processes already: threads of NumPy's linear algebra, unused here, would only cost memory.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        print(_stream(options) if options.target == "stream" else _imagenet64(options))
    except KeyboardInterrupt:
        print("\nprobediff prepare: stopped; start the same command again to go on", file=sys.stderr)
        return 130
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        print(f"probediff prepare: error: {error}", file=sys.stderr)
        return 1
    return 0


def _imagenet64(options: argparse.Namespace) -> str:
    from probediff.prepare.images import prepare_images
    from probediff.prepare.manifest import UNREADABLE, verify

    out = options.out.expanduser()
    if options.verify:
        manifest = verify(out)
        return f"{out}: {manifest.num_images} images in {len(manifest.shards)} shards match their checksums"
    manifest = prepare_images(options.source.expanduser(), out, options.image_size, options.num_workers)
    size = manifest.identity.image_size
    text = f"{out}: {manifest.num_images} images of {size} x {size} pixels in {len(manifest.shards)} shards"
    if failed := len(manifest.unreadable):
        text += f"; {failed} of {manifest.identity.num_entries} files could not be read, see {out / UNREADABLE}"
    return text


def _stream(options: argparse.Namespace) -> str:
    from probediff.prepare.stream import write_stream

    manifest = write_stream(options.prepared.expanduser(), options.out.expanduser())
    return f"{options.out}: {manifest.num_images} images in chunks of litdata"


def _parser() -> argparse.ArgumentParser:
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="probediff prepare",
        description="Decode an image set once, into files that training reads without decoding.",
        epilog=_EXAMPLES,
        formatter_class=style,
    )
    targets = parser.add_subparsers(dest="target", required=True, metavar="TARGET")
    images = targets.add_parser(
        "imagenet64",
        help="ImageNet (or other images) to 64 x 64 pixels, mapped into memory",
        description=_IMAGENET,
        formatter_class=style,
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
    stream = targets.add_parser(
        "stream", help="a prepared set to chunks that litdata streams", description=_STREAM, formatter_class=style
    )
    stream.add_argument("prepared", metavar="PREPARED", type=Path, help="folder that `prepare imagenet64` made")
    stream.add_argument("out", metavar="OUT", type=Path, help="folder of the chunks, new or empty")
    return parser
