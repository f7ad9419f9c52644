"""Train pixel-space diffusion models and see how noises, images and DDIM latents relate.

Examples:
  probediff fit --config configs/patches.yaml
  probediff fit --config configs/cifar10.yaml --data.root ~/data --trainer.devices 8
  probediff fit --help
  probediff probe runs/patches/MY_RUN --num_steps 10,100,1000
  probediff report runs/patches/MY_RUN --out report
  probediff prepare imagenet64 ~/imagenet/train ~/imagenet64

Documentation: README.md
"""

import difflib
import importlib
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import pairwise

from probediff import __version__
from probediff.commands.runner import split_help
from probediff.commands.signals import STOPPING, end_while_importing, stop_at_once, tell_stop
from probediff.exceptions import StoppedAtOnce

#: What each command does; the function of its name in the module of its name does it, and is imported then.
COMMANDS = {
    "fit": "train a diffusion model and probe it at checkpoints",
    "probe": "run the probes on any model: runs, checkpoints, published models",
    "compare": "which exact denoiser foretells the images of runs?",
    "inversions": "compare inversion methods on one model",
    "whitening": "is the first step a de-whitening? (First-step inference)",
    "search-noise": "find noises that are correlated with images",
    "vary": "variations of images, from found noises, by any models",
    "edit": "edit images from random noise, found noise or latents",
    "report": "tables, figures and a page from runs and probes",
    "verdicts": "each statement of the papers beside what runs say",
    "sweep": "run all trials of a sweep file, here or through W&B",
    "runs": "list local runs: state, step, speed, last values",
    "dashboard": "make or update a W&B workspace for a project",
    "prepare": "decode an image set once, for fast training",
}

_HELP = """usage: probediff COMMAND [options]

{description}

commands:
{commands}

options:
  -h, --help     show this help
  --version      show the version

{examples}"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        description, examples = split_help(__doc__)
        commands = "\n".join(f"  {name:<13}{text}" for name, text in COMMANDS.items())
        print(_HELP.format(description=description, commands=commands, examples=examples))
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"probediff {__version__}")
        return 0
    if arguments[0] not in COMMANDS:
        close = difflib.get_close_matches(arguments[0], COMMANDS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"commands: {', '.join(COMMANDS)}"
        print(f"probediff: unknown command {arguments[0]!r}; {hint} (see probediff --help)", file=sys.stderr)
        return 2
    if empty := _empty_option(arguments[1:]):
        print(f"probediff {arguments[0]}: error: {empty} must not be empty, got ''; leave it out?", file=sys.stderr)
        return 2
    name = arguments[0].replace("-", "_")
    trains = name == "fit"
    cure = "; go on from its last checkpoint with --resume auto" if trains else ""
    tell = partial(tell_stop, arguments[0], cure=cure)
    try:
        # Only training has something to save; other commands keep their finished parts however they end.
        with stop_at_once() if trains else nullcontext():
            with end_while_importing(STOPPING if trains else STOPPING[:1], tell):
                run: Callable[[list[str]], int] = getattr(importlib.import_module(f"probediff.commands.{name}"), name)
            return run(arguments[1:])
    except (StoppedAtOnce, KeyboardInterrupt) as stop:
        return tell(str(stop) or "SIGINT")


def _empty_option(arguments: Sequence[str]) -> str | None:
    """What an unset variable of a shell script has left empty; taken for a path it would be the working directory.

    Prompts may be empty.
    """
    for before, argument in pairwise(["an argument", *arguments]):
        option, equals, value = argument.partition("=")
        if argument == "" or (equals and not value and option.startswith("--")):
            name = (before if before.startswith("--") else "an argument") if argument == "" else option
            if not name.endswith("prompt"):
                return name
    return None


if __name__ == "__main__":
    sys.exit(main())
