"""What W&B gets of a result: numbers, their standard errors, and its own kinds of pictures, histograms and tables."""

from typing import Any

from probediff.runs.results import ProbeResult, errors_of, scalars_of


def payload_of(step: int, probe: str, result: ProbeResult) -> dict[str, Any]:
    """Everything of one probe by the key that W&B has for it; without the axis of steps."""
    # Imported where it is used: --help would wait a second for it.
    import wandb

    prefix = f"probe/{probe}"
    payload: dict[str, Any] = scalars_of({probe: result}) | errors_of({probe: result})
    for name, picture in result.pictures.items():
        caption = f"{probe}: {name}, training step {step}"
        payload[f"{prefix}/{name}"] = wandb.Image(picture.permute(1, 2, 0).numpy(), caption=caption)
    for name in result.histograms:
        # W&B finds no bins for values that are not finite, and none where there are no values.
        if len(values := result.finite_values(name)):
            payload[f"{prefix}/{name}_histogram"] = wandb.Histogram(values.tolist())
    for name in result.tables:
        columns = result.table(name)
        rows = [list(row) for row in zip(*(column.tolist() for column in columns.values()), strict=True)]
        payload[f"{prefix}/{name}_table"] = wandb.Table(columns=list(columns), data=rows)
    return payload
