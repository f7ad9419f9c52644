"""Where numbers go beside the run's own folder: Weights & Biases. Runs know wandb from here only."""

import netrc
import os
import secrets
import socket
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import DummyExperiment
from lightning.pytorch.utilities import rank_zero_only

from probediff.runs.folder import WANDB_ID
from probediff.runs.results import ProbeResult

#: How long a server that answers nothing holds up the start of a run, unless WANDB_INIT_TIMEOUT says otherwise.
INIT_TIMEOUT_SEC = 30.0


WandbMode = Literal["auto", "online", "offline", "disabled"]


@dataclass(frozen=True)
class WandbSettings:
    """Where Weights & Biases gets the run.

    Args:
        mode: ``auto`` goes online when a key and the server are there, else offline; ``disabled`` switches it off.
        project: W&B project.
        entity: W&B user or team.
        name: name of the run; the run folder's name by default.
        group: group of the run.
        tags: tags of the run.
    """

    mode: WandbMode = "auto"
    project: str = "probediff"
    entity: str | None = None
    name: str | None = None
    group: str | None = None
    tags: list[str] | None = None


def resolve_mode(mode: WandbMode) -> Literal["online", "offline", "disabled"]:
    """``auto`` made definite: WANDB_MODE if it is set, else online when there are a key and a server."""
    if mode != "auto":
        return mode
    preset = os.environ.get("WANDB_MODE", "").lower()
    if preset in ("online", "offline", "disabled"):
        return preset  # type: ignore[return-value]
    # Imported where it is used: --help would wait a second for it.
    import wandb

    url = os.environ.get("WANDB_BASE_URL") or wandb.Settings().base_url
    return "online" if _has_key(url) and _reachable(url) else "offline"


def _has_key(url: str) -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators(urlsplit(url).hostname or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _reachable(url: str) -> bool:
    parts = urlsplit(url)
    try:
        port = parts.port or (80 if parts.scheme == "http" else 443)
        socket.create_connection((parts.hostname or "", port), timeout=5).close()
    except OSError:
        return False
    return True


class FailsafeWandbLogger(WandbLogger):
    """A WandbLogger whose failures never stop training: the first one is reported, then W&B is left alone.

    The run's own records are complete without it.
    """

    def __init__(self, settings: WandbSettings, save_dir: Path) -> None:
        mode = resolve_mode(settings.mode)
        import wandb

        super().__init__(
            name=settings.name or save_dir.name,
            version=_run_id(save_dir),
            save_dir=save_dir,
            project=settings.project,
            offline=mode == "offline",
            entity=settings.entity,
            group=settings.group,
            tags=settings.tags,
            mode=mode,
            # The run's own tables are printed instead of W&B's summary.
            settings=wandb.Settings(
                quiet=True, init_timeout=float(os.environ.get("WANDB_INIT_TIMEOUT", INIT_TIMEOUT_SEC))
            ),
        )
        # Lightning passes an argument that wandb only warns about and is going to remove.
        self._wandb_init.pop("anonymous", None)
        self.failed = False

    def _attempt(self, action: Callable[[], Any]) -> None:
        if self.failed:
            return
        try:
            action()
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self.failed = True
        warnings.warn(
            f"Weights & Biases failed and gets nothing more from this run ({type(error).__name__}: {error}). "
            f"Training goes on; everything is in {self.save_dir}.",
            stacklevel=4,
        )

    @property
    def experiment(self) -> Any:
        """The W&B run, or a stand-in that swallows everything once W&B has failed."""
        if not self.failed:
            try:
                return super().experiment
            except Exception as error:
                self._give_up(error)
        return DummyExperiment()

    @rank_zero_only
    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """Log scalars under the trainer's step."""
        self._attempt(lambda: super(FailsafeWandbLogger, self).log_metrics(metrics, step))

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        """Log the run's configuration."""
        self._attempt(lambda: super(FailsafeWandbLogger, self).log_hyperparams(params))

    @rank_zero_only
    def log_result(self, step: int, probe: str, result: ProbeResult) -> None:
        """Log everything of one probe as one W&B step, with the trainer's step as its axis."""
        self._attempt(lambda: self.experiment.log(_payload(step, probe, result)))

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Finish the run, marking it as failed after an exception."""

        def finish() -> None:
            if self._experiment is not None:
                self.experiment.finish(exit_code=0 if status == "success" else 1)

        self._attempt(finish)

    @property
    def version(self) -> str | None:
        """Id of the W&B run; None when W&B failed before there was one."""
        return None if self.failed else super().version


def _run_id(save_dir: Path) -> str:
    """Id of the folder's W&B run, so that a resumed run goes on under it."""
    path = save_dir / WANDB_ID
    if path.exists() or getattr(rank_zero_only, "rank", 0) != 0:
        return path.read_text(encoding="utf-8").strip() if path.exists() else ""
    run_id = secrets.token_hex(4)
    save_dir.mkdir(parents=True, exist_ok=True)
    path.write_text(run_id + "\n", encoding="utf-8")
    return run_id


def _payload(step: int, probe: str, result: ProbeResult) -> dict[str, Any]:
    import wandb

    prefix = f"probe/{probe}"
    payload: dict[str, Any] = {"trainer/global_step": step}
    payload |= {f"{prefix}/{key}": value for key, value in result.values.items()}
    for name, picture in result.pictures.items():
        caption = f"{probe}: {name}, training step {step}"
        payload[f"{prefix}/{name}"] = wandb.Image(picture.permute(1, 2, 0).numpy(), caption=caption)
    for name in result.histograms:
        payload[f"{prefix}/{name}_histogram"] = wandb.Histogram(result.arrays[name].tolist())
    return payload
