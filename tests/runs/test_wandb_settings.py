"""W&B's environment variables: respected where no option says otherwise, and checked before anything begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from probediff.runs.loggers import FailsafeWandbLogger
from probediff.runs.wandb_settings import WandbSettings, check_environment, from_environment, resolve_mode

SAID = {
    "WANDB_PROJECT": "others",
    "WANDB_ENTITY": "team",
    "WANDB_NAME": "first",
    "WANDB_RUN_GROUP": "pilot",
    "WANDB_TAGS": "a, b",
    "WANDB_JOB_TYPE": "pilot study",
    "WANDB_NOTES": "two lines\nof notes",
}
MEANT = {"project": "others", "entity": "team", "name": "first", "group": "pilot", "tags": ["a", "b"]}
MEANT |= {"job_type": "pilot study", "notes": "two lines\nof notes"}


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*SAID, "WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def settings_of(logger: FailsafeWandbLogger) -> dict[str, Any]:
    return {key: logger._wandb_init[key] for key in MEANT}


def test_variables_are_respected_and_options_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    default = settings_of(FailsafeWandbLogger(WandbSettings(mode="offline"), tmp_path / "run"))
    assert default == dict.fromkeys(MEANT) | {"project": "probediff", "name": "run"}
    for name, value in SAID.items():
        monkeypatch.setenv(name, value)
    assert from_environment(vars(WandbSettings())) == MEANT
    assert settings_of(FailsafeWandbLogger(WandbSettings(mode="offline"), tmp_path)) == MEANT
    given = {"project": "mine", "entity": "me", "name": "second", "group": "final", "tags": ["c"]}
    given |= {"job_type": "train", "notes": "mine"}
    chosen = WandbSettings(mode="offline", **given)  # type: ignore[arg-type]
    assert settings_of(FailsafeWandbLogger(chosen, tmp_path)) == given
    assert from_environment(given) == {}


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("WANDB_INIT_TIMEOUT", "abc", "a valid number"),
        ("WANDB_INIT_TIMEOUT", "-1", "seconds above 0"),
        ("WANDB_INIT_TIMEOUT", "nan", "seconds above 0"),
        ("WANDB_MODE", "nonsense", "'online', 'offline'"),
        ("WANDB_BASE_URL", "nonsense", "a valid URL"),
        ("WANDB_SILENT", "perhaps", "a valid boolean"),
        ("WANDB_CONSOLE", "loud", "'auto', 'off'"),
        ("WANDB_PROJECT", "a/b", "Invalid project name"),
        ("WANDB_TAGS", "t" * 65, "between 1 and 64 characters"),
        ("WANDB_DIR", "/proc/runs", "a folder that can be written to"),
        ("WANDB_CACHE_DIR", __file__, "a folder that can be written to"),
    ],
)
def test_a_bad_variable_is_one_line(name: str, value: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=rf"^{name} must be .*{expected}.*, got {value!r}") as refused:
        check_environment(WandbSettings())
    assert "\n" not in str(refused.value) and ("unset" in str(refused.value) or "leave it out" in str(refused.value))


@pytest.mark.parametrize("key", ["secret", "s" * 39, "secret with blanks " * 3, "secret\n" * 8])
def test_a_malformed_key_is_refused_and_not_shown(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", key)
    with pytest.raises(ValueError, match=f"^WANDB_API_KEY must be .* got one of {len(key)} characters") as refused:
        check_environment(WandbSettings())
    assert "secret" not in str(refused.value) and "sss" not in str(refused.value)
    check_environment(WandbSettings(mode="offline"))
    monkeypatch.setenv("WANDB_API_KEY", "s" * 40)
    check_environment(WandbSettings())


def test_bad_options_are_named_as_options() -> None:
    with pytest.raises(ValueError, match=r"^--wandb.project must be .*Invalid project name"):
        check_environment(WandbSettings(project="a/b"))
    with pytest.raises(ValueError, match=r"^--wandb.tags must be "):
        check_environment(WandbSettings(tags=["t" * 65]))


def test_modes_have_wandb_s_names_too(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, mode in (("dryrun", "offline"), ("run", "online"), ("disabled", "disabled")):
        monkeypatch.setenv("WANDB_MODE", value)
        assert resolve_mode("auto") == mode
    monkeypatch.setenv("WANDB_MODE", "nonsense")
    with pytest.raises(ValueError, match=r"WANDB_MODE must be one of .*got 'nonsense'; unset it"):
        resolve_mode("auto")
