"""The command ``probediff``: help and dispatch, without importing anything heavy."""

import difflib
import importlib
import sys
from collections.abc import Callable, Sequence

from probediff import __version__

#: Name -> what it does, and the function behind it, imported when it is called.
COMMANDS = {
    "fit": ("train a diffusion model and probe it at checkpoints", "probediff.commands.fit:fit"),
    "probe": ("run the probes on any model: runs, checkpoints, published models", "probediff.commands.probe:probe"),
    "inversions": ("compare inversion methods on one model", "probediff.commands.inversions:inversions"),
    "whitening": (
        "is the first step a de-whitening? P2's analysis",
        "probediff.commands.whitening:whitening",
    ),
    "search-noise": ("find noises that are correlated with images", "probediff.commands.search_noise:search_noise"),
    "vary": ("variations of images, from found noises, by any models", "probediff.commands.vary:vary"),
    "edit": ("edit images from random noise, found noise or latents", "probediff.commands.edit:edit"),
    "report": ("tables, figures and a page from runs and probes", "probediff.commands.report:report"),
    "sweep": ("run all trials of a sweep file, here or through W&B", "probediff.commands.sweep:sweep"),
    "runs": ("list local runs: state, step, speed, last values", "probediff.commands.runs:runs"),
    "dashboard": ("make or update a W&B workspace for a project", "probediff.commands.dashboard:dashboard"),
    "prepare": ("decode an image set once, for fast training", "probediff.commands.prepare:prepare"),
}

_USAGE = """usage: probediff COMMAND [options]

Train pixel-space diffusion models and see how noises, images and DDIM latents relate.

commands:
{commands}

options:
  -h, --help     show this help
  --version      show the version

examples:
  probediff fit --config configs/patches.yaml
  probediff fit --config configs/cifar10.yaml --data.root ~/data --trainer.devices 8
  probediff fit --help
  probediff probe runs/patches/MY_RUN --num_steps 10,100,1000
  probediff report runs/patches/MY_RUN --out report
  probediff prepare imagenet64 ~/imagenet/train ~/imagenet64

Documentation: README.md"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE.format(commands="\n".join(f"  {name:<13}{text}" for name, (text, _) in COMMANDS.items())))
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"probediff {__version__}")
        return 0
    if arguments[0] not in COMMANDS:
        close = difflib.get_close_matches(arguments[0], COMMANDS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"commands: {', '.join(COMMANDS)}"
        print(f"probediff: unknown command {arguments[0]!r}; {hint} (see probediff --help)", file=sys.stderr)
        return 2
    module, _, function = COMMANDS[arguments[0]][1].partition(":")
    run: Callable[[list[str]], int] = getattr(importlib.import_module(module), function)
    return run(arguments[1:])


if __name__ == "__main__":
    sys.exit(main())
