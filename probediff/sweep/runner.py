"""Running the trials of a plan on this machine, several at a time, each in a process of its own."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from probediff.files import explain_disk_errors
from probediff.runs.conditions import as_json
from probediff.runs.folder import RunFolder
from probediff.runs.lock import hold, holder
from probediff.sweep.lineage import TRIAL_VARIABLE, Trial
from probediff.sweep.plan import Plan, PlannedTrial
from probediff.sweep.progress import Standing, SweepDisplay

#: Exit status of a trial that a signal stopped and that can go on; that of the sweep then as well.
STATUS_STOPPED = 75
STATUS_INTERRUPTED = 130
_POLL_SEC = 0.2
_MOST_ERROR_LINES = 4
#: What a trial says whose command line has a key that the configuration does not have.
_REFUSED = "unrecognized arguments"
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


@dataclass
class _Job:
    """A trial that is running: our process, or, where there is none, one that outlived an earlier sweep command."""

    standing: Standing
    gpu: str | None
    pid: int | None
    process: subprocess.Popen[bytes] | None = None
    log: Path | None = None

    def is_running(self) -> bool:
        if self.process is None:
            return holder(self.standing.folder) is not None
        return self.process.poll() is None

    def stop(self, at_once: bool) -> None:
        """Ask it to save and stop, or kill it and what it launched."""
        if self.pid is not None and self.is_running():
            # Each trial leads a process group of its own.
            with suppress(ProcessLookupError):
                (os.killpg if at_once else os.kill)(self.pid, signal.SIGKILL if at_once else signal.SIGTERM)


@dataclass
class LocalSweep:
    """Runs what is left of a plan.

    Trials that are finished are left alone, others go on in their folders. A trial that fails takes no other with it.
    The first SIGINT, SIGTERM or SIGUSR1 asks all trials to save and stop; the second one ends them at once.

    Args:
        plan: the trials.
        num_parallel: how many run at a time.
        gpus: what CUDA_VISIBLE_DEVICES may be, one for each trial; empty where there are none.
    """

    plan: Plan
    num_parallel: int = 1
    gpus: Sequence[str] = ()
    standings: list[Standing] = field(init=False)

    def __post_init__(self) -> None:
        if self.num_parallel < 1 or (self.gpus and self.num_parallel > len(self.gpus)):
            most = f"1..{len(self.gpus)}, one GPU for each trial" if self.gpus else "at least 1"
            raise ValueError(f"--num_parallel must be {most}, got {self.num_parallel}")
        self.standings = [Standing(trial.name, self.plan.folder / trial.name) for trial in self.plan.trials]
        self._free_gpus = list(self.gpus)
        self._jobs: list[_Job] = []
        self._signals: list[int] = []
        self._is_refused = False

    def run(self) -> int:
        """Run until all trials have ended; returns the exit status.

        0 when all are finished, 1 when one failed, 75 when one was stopped or a signal came, 130 after Ctrl-C.

        Raises:
            ValueError: another command is running this plan.
            OSError: the folder cannot be written to.
        """
        with explain_disk_errors(self.plan.folder, "--folder"):
            if not hold(self.plan.folder):
                raise ValueError(f"{self.plan.folder} is being run by {holder(self.plan.folder)}; wait for its end")
            self.plan.keep()
        # Handlers can be set in the main thread only.
        own = _SIGNALS if threading.current_thread() is threading.main_thread() else ()
        previous = {number: signal.signal(number, self._remember) for number in own}
        try:
            with closing(SweepDisplay(self.plan.sweep, self.standings)) as display:
                self._run_all(display)
        finally:
            for job in self._jobs:
                _end_group(job.process)
            for number, handler in previous.items():
                signal.signal(number, handler)
        return self._status()

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self._signals.append(number)
        for job in self._jobs:
            job.stop(at_once=len(self._signals) > 1)

    def _run_all(self, display: SweepDisplay) -> None:
        waiting = list(zip(self.plan.trials, self.standings, strict=True))
        while waiting or self._jobs:
            if self._signals or self._is_refused:
                waiting.clear()
            while waiting and len(self._jobs) < self.num_parallel and not self._signals:
                self._begin(*waiting.pop(0), display)
            for job in list(self._jobs):
                # A signal does not reach what runs on another machine; it is not waited for either.
                if not job.is_running() or (self._signals and job.pid is None):
                    self._finish(job, display)
            display.update()
            if self._jobs:
                time.sleep(_POLL_SEC)

    def _begin(self, trial: PlannedTrial, standing: Standing, display: SweepDisplay) -> None:
        """Start a trial, or wait for its process of an earlier time; nothing where it is finished."""
        folder = RunFolder(standing.folder)
        if folder.is_finished() and holder(folder.path) is None:
            if folder.lineage().get("values") == as_json(trial.values):
                standing.state = "finished"
            else:
                standing.state, standing.reason = "failed", f"{folder.path} holds a run that is not this trial's"
                display.say(f"{trial.name}: {standing.state}: {standing.reason}; move it away")
            return
        standing.state = "running"
        if (other := holder(standing.folder)) is not None:
            here = other.get("host") == socket.gethostname()
            display.say(f"{trial.name}: still running in process {other.get('process')}; waiting for its end")
            job = _Job(standing, self._take_gpu(other.get("gpu")), other.get("process") if here else None)
        else:
            job = self._start(trial, standing, display)
        self._jobs.append(job)
        if self._signals:
            # It came while the trial was not yet among the jobs.
            job.stop(at_once=len(self._signals) > 1)

    def _start(self, trial: PlannedTrial, standing: Standing, display: SweepDisplay) -> _Job:
        gpu = self._take_gpu(None)
        log = self.plan.folder / "logs" / f"{trial.name}.log"
        log.parent.mkdir(exist_ok=True)
        start = Trial(self.plan.sweep, secrets.token_hex(4), trial.values, str(standing.folder))
        display.say(f"{trial.name}: started{f' on GPU {gpu}' if gpu else ''}, output in {log}")
        # ``python`` is this interpreter, and the process knows which trial it is.
        environment = os.environ | {TRIAL_VARIABLE: start.to_json()}
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        if gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = gpu
        with log.open("ab") as output:
            # In a session of its own: Ctrl-C reaches it only through this class, which lets it save.
            streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": subprocess.STDOUT}
            try:
                process = subprocess.Popen(trial.command, env=environment, start_new_session=True, **streams)
            except OSError as error:
                raise ValueError(
                    f"command in the sweep file must start a program, got {trial.command[0]!r}: {error.strerror}"
                ) from error
        return _Job(standing, gpu, process.pid, process, log)

    def _take_gpu(self, wanted: Any) -> str | None:
        if not self._free_gpus:
            return None
        return self._free_gpus.pop(self._free_gpus.index(wanted) if wanted in self._free_gpus else 0)

    def _finish(self, job: _Job, display: SweepDisplay) -> None:
        self._jobs.remove(job)
        if job.gpu is not None:
            self._free_gpus.append(job.gpu)
        standing, code = job.standing, None if job.process is None else job.process.returncode
        _end_group(job.process)
        if RunFolder(standing.folder).is_finished():
            standing.state = "finished"
        elif code == STATUS_STOPPED or self._signals:
            standing.state = "stopped"
        else:
            standing.state, standing.reason = "failed", _reason(code, job.log)
        display.say(f"{standing.name}: {standing.state}{f': {standing.reason}' if standing.reason else ''}")
        if _REFUSED in standing.reason and not self._is_refused:
            self._is_refused = True
            display.say("no other trial is started, for all have the same keys; name those of the configuration")

    def _status(self) -> int:
        if self._signals:
            return STATUS_INTERRUPTED if self._signals[0] == signal.SIGINT else STATUS_STOPPED
        states = {standing.state for standing in self.standings}
        return 1 if "failed" in states else STATUS_STOPPED if "stopped" in states else 0


def _end_group(process: subprocess.Popen[bytes] | None) -> None:
    """Kill the process, and the processes that it launched, if any live on."""
    if process is not None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _reason(code: int | None, log: Path | None) -> str:
    """The exit status and the last error of the log, or its last line that says something."""
    status = "its process ended" if code is None else f"exit status {code}" if code >= 0 else signal.Signals(-code).name
    if log is None:
        return status
    lines = log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n").splitlines()
    messages = [line for line in lines if line.strip() and not line.startswith("The traceback is in")]
    errors = [k for k, line in enumerate(messages) if line.startswith("error: ")]
    # Before the error may lie the log of earlier starts, behind it only the rest of its words.
    words = messages[errors[-1] :] if errors and len(messages) - errors[-1] <= _MOST_ERROR_LINES else messages[-1:]
    return ": ".join([status, *([" ".join(" ".join(words).split())] if words else [])])
