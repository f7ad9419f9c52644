"""Write golden/*.json by running the authors' code.

Needs checkouts of openai/improved-diffusion and openai/guided-diffusion:
`PYTHONPATH=<improved-diffusion>:<guided-diffusion>:. python -m tests.reference.make_golden`
"""

from __future__ import annotations

import json
from typing import Any

import improved_diffusion.gaussian_diffusion as authors
import torch
from guided_diffusion.unet import UNetModel as GuidedUNet
from improved_diffusion.respace import SpacedDiffusion, space_timesteps
from improved_diffusion.unet import UNetModel as ImprovedUNet
from torch import Tensor, nn

from tests.reference.golden_inputs import (
    GOLDEN,
    analytic_eps,
    analytic_output,
    formula_state_dict,
    hashed_images,
    hashed_normal,
)

SOURCE = {
    "improved_diffusion_commit": "1bc7bbbdc414d83d4abf2ad8cc1446dc36c4e4d5",
    "guided_diffusion_commit": "22e0df8183507e13a7813f8d38d51b072ca1e67c",
    "torch_version": torch.__version__,
    "inputs": "functions of these names in tests/reference/golden_inputs.py; the state-dict names are the authors' own",
}
NUM_TRAIN_TIMESTEPS = 4000
SHAPE = (2, 3, 4, 4)
LOSS_TIMESTEPS = [0, 1, 700, 2500, 3600, 3999]
UNET_LOSS_TIMESTEPS = [0, 1300, 3999]

# Arguments of our UNet; `stride` thins the flattened output to what is kept.
UNETS: dict[str, dict[str, Any]] = {
    "improved_32": {
        "ours": {"image_size": 32, "channel_mult": [1, 2, 2, 2]},
        "size": 32,
        "timestep": [0.0, 731.25],
        "stride": 97,
    },
    "improved_64": {
        "ours": {"image_size": 64, "channel_mult": [1, 2, 3, 4]},
        "size": 64,
        "timestep": [500.25],
        "stride": 197,
    },
    "improved_lsun_like": {
        "ours": {
            "image_size": 16,
            "channels": 32,
            "channel_mult": [1, 3],
            "num_res_blocks": 1,
            "attention_resolutions": [16],
            "num_heads": 1,
            "out_channels": 3,
            "use_scale_shift_norm": False,
        },
        "size": 16,
        "timestep": [3.0, 999.0],
        "stride": 11,
    },
    "guided_legacy_order": {
        "ours": {
            "image_size": 32,
            "channels": 64,
            "channel_mult": [1, 2, 3],
            "num_res_blocks": 2,
            "attention_resolutions": [16, 8],
            "num_head_channels": 64,
            "resblock_updown": True,
        },
        "size": 32,
        "timestep": [0.0, 812.0],
        "stride": 97,
    },
}
UNETS["guided_new_order"] = {
    **UNETS["guided_legacy_order"],
    "ours": {**UNETS["guided_legacy_order"]["ours"], "new_attention_order": True},
}
# The unconditional 256 x 256 network, 552.8 million parameters, and one with an eighth of its channels.
UNETS["guided_256"] = {
    "ours": {
        "image_size": 256,
        "channels": 256,
        "channel_mult": [1, 1, 2, 2, 4, 4],
        "num_res_blocks": 2,
        "attention_resolutions": [32, 16, 8],
        "num_head_channels": 64,
        "resblock_updown": True,
    },
    "size": 256,
    "timestep": [431.0],
    "stride": 3121,
}
UNETS["guided_256_narrow"] = {**UNETS["guided_256"], "ours": {**UNETS["guided_256"]["ours"], "channels": 32}}


def authors_unet(case: str) -> nn.Module:
    """The authors' network of one case, with formula weights, in eval mode."""
    ours = UNETS[case]["ours"]
    size = ours["image_size"]
    arguments: dict[str, Any] = {
        "in_channels": 3,
        "model_channels": ours.get("channels", 128),
        "out_channels": ours.get("out_channels", 6),
        "num_res_blocks": ours.get("num_res_blocks", 3),
        "attention_resolutions": tuple(size // pixels for pixels in ours.get("attention_resolutions", [16, 8])),
        "channel_mult": tuple(ours["channel_mult"]),
        "num_heads": ours.get("num_heads", 4),
        "use_scale_shift_norm": ours.get("use_scale_shift_norm", True),
    }
    if case.startswith("guided"):
        network = GuidedUNet(
            image_size=size,
            num_head_channels=ours["num_head_channels"],
            resblock_updown=True,
            use_new_attention_order=ours.get("new_attention_order", False),
            **arguments,
        )
    else:
        network = ImprovedUNet(**arguments)
    network.load_state_dict(formula_state_dict(network.state_dict()))
    return network.eval()


def diffusion(learn_sigma: bool, respacing: str = "") -> SpacedDiffusion:
    """The authors' diffusion on the cosine schedule."""
    return SpacedDiffusion(
        use_timesteps=space_timesteps(NUM_TRAIN_TIMESTEPS, respacing or [NUM_TRAIN_TIMESTEPS]),
        betas=authors.get_named_beta_schedule("cosine", NUM_TRAIN_TIMESTEPS),
        model_mean_type=authors.ModelMeanType.EPSILON,
        model_var_type=authors.ModelVarType.LEARNED_RANGE if learn_sigma else authors.ModelVarType.FIXED_LARGE,
        loss_type=authors.LossType.RESCALED_MSE,
        rescale_timesteps=True,
    )


def rounded(values: Tensor) -> list[float]:
    """Flat list with 9 significant digits for float32, 16 for float64."""
    digits = 9 if values.dtype == torch.float32 else 16
    return [float(f"{value:.{digits}g}") for value in values.flatten().tolist()]


def unet_numbers() -> dict[str, Any]:
    """Outputs of the authors' networks."""
    cases = {}
    for name, case in UNETS.items():
        timestep = torch.tensor(case["timestep"])
        x = hashed_normal("x", (len(timestep), 3, case["size"], case["size"])).float()
        with torch.no_grad():
            output = authors_unet(name)(x, timestep)
        cases[name] = {
            **case,
            "output_shape": list(output.shape),
            "output": rounded(output.flatten()[:: case["stride"]]),
            "channel_mean_absolute": rounded(output.abs().mean(dim=(0, 2, 3))),
        }
    keys = {
        "ours": "arguments of UNet, beside its defaults, that match the authors' network",
        "size": "x = hashed_normal('x', (B, 3, size, size)).float()",
        "timestep": "(B,) already rescaled",
        "output": "flattened output [:: stride], float32; weights are formula_state_dict of the network",
        "channel_mean_absolute": "mean |output| over B, H, W for each channel",
    }
    return {"source": SOURCE, "keys": keys, "cases": cases}


def loss_terms(model: Any, timesteps: list[int], shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, list[float]]:
    """Per-sample terms of L_hybrid, or of L_simple where the model returns as many channels as it takes."""
    timestep = torch.tensor(timesteps)
    x_0 = hashed_images("x_0", (len(timesteps), *shape)).to(dtype)
    eps = hashed_normal("eps", (len(timesteps), *shape)).to(dtype)
    learn_sigma = model(x_0[:1], timestep[:1].float()).shape[1] == 2 * shape[0]
    terms = diffusion(learn_sigma).training_losses(model, x_0, timestep, noise=eps)
    return {name: rounded(value) for name, value in terms.items()}


def loss_numbers() -> dict[str, Any]:
    """Training losses of the analytic networks and of the 32 px U-Net."""
    small = (3, 8, 8)
    keys = {
        "case": "each case: timestep (B,) 0..3999, shape (C, H, W), then mse (L_simple), vb (bits, times T/1000), loss",
        "x_0, eps": "hashed_images('x_0', (B, C, H, W)) and hashed_normal('eps', (B, C, H, W)), cast to the dtype",
        "analytic_output": "network analytic_output(x_t, timestep * 1000 / 4000): 6 channels, L_hybrid = mse + vb",
        "analytic_eps": "network analytic_eps(x_t, timestep * 1000 / 4000): 3 channels, L_simple only",
        "unet_32": "UNet(32) in eval mode with formula_state_dict weights, fed timestep * 1000 / 4000",
        "float32, float64": "dtype of x_0 and eps; float32 is the authors' code as it is, float64 is the same with the "
        "cast of the schedule's coefficients to float32 removed",
        "schedule": "cosine, T = 4000; LEARNED_RANGE, RESCALED_MSE, rescale_timesteps",
    }
    cases: dict[str, Any] = {}
    for name, model in (("analytic_output", analytic_output), ("analytic_eps", analytic_eps)):
        cases[name] = {"timestep": LOSS_TIMESTEPS, "shape": small}
        cases[name]["float32"] = loss_terms(model, LOSS_TIMESTEPS, small, torch.float32)
        with float64_coefficients():
            cases[name]["float64"] = loss_terms(model, LOSS_TIMESTEPS, small, torch.float64)
    image = (3, 32, 32)
    with torch.no_grad():
        terms = loss_terms(authors_unet("improved_32"), UNET_LOSS_TIMESTEPS, image, torch.float32)
    cases["unet_32"] = {"timestep": UNET_LOSS_TIMESTEPS, "shape": image, "float32": terms}
    return {"source": SOURCE, "keys": keys, "cases": cases}


class float64_coefficients:  # noqa: N801 (reads as a function in `with`)
    """Run the authors' code with its coefficients in float64 instead of float32."""

    def __enter__(self) -> None:
        """Replace the function that looks a coefficient up."""
        self._original = authors._extract_into_tensor

        def extract(table: Any, timestep: Tensor, shape: tuple[int, ...]) -> Tensor:
            return torch.from_numpy(table)[timestep].reshape(-1, *[1] * (len(shape) - 1)).expand(shape)

        authors._extract_into_tensor = extract

    def __exit__(self, *_: object) -> None:
        """Put it back."""
        authors._extract_into_tensor = self._original


def trajectory(respacing: str, clip: bool, invert: bool, dtype: torch.dtype) -> dict[str, list[float]]:
    """Run ddim_sample (from noise) or ddim_reverse_sample (from images) over all steps."""
    process = diffusion(learn_sigma=False, respacing=respacing)
    steps = list(range(process.num_timesteps))
    x = (hashed_images("ddim_x_0", SHAPE) if invert else hashed_normal("ddim_x_T", SHAPE)).to(dtype)
    step = process.ddim_reverse_sample if invert else process.ddim_sample
    start, path = x, []
    for index in steps if invert else reversed(steps):
        x = step(analytic_eps, x, torch.full((SHAPE[0],), index), clip_denoised=clip)["sample"]
        path.append(x[0, 0, 0, 0])
    if not invert:
        loop = process.ddim_sample_loop(analytic_eps, SHAPE, noise=start, clip_denoised=clip, device="cpu")
        torch.testing.assert_close(loop, x, rtol=0, atol=0)
    if dtype == torch.float32:
        return {"final": rounded(x)}
    return {"final": rounded(x), "path_of_first_element": rounded(torch.stack(path))}


def ddim_numbers() -> dict[str, Any]:
    """Results of the DDIM sampler and of the reverse loop."""
    keys = {
        "case": "<sample|invert>/<ddim10|ddim100>/<clipped|unclipped>/<float32|float64>",
        "sample": "ddim_sample_loop, eta 0, from x_T = hashed_normal('ddim_x_T', (2, 3, 4, 4))",
        "invert": "ddim_reverse_sample for index 0..num_steps-1 from x_0 = hashed_images('ddim_x_0', (2, 3, 4, 4))",
        "clipped": "clip_denoised=True: the predicted x_0 is clamped to [-1, 1] at each step",
        "network": "analytic_eps(x, timestep * 1000 / 4000)",
        "final": "flattened result (2, 3, 4, 4)",
        "path_of_first_element": "x[0, 0, 0, 0] after each step, in the order of the steps",
        "float32, float64": "dtype of x; float32 is the authors' code as it is, float64 is the same with the cast of "
        "the schedule's coefficients to float32 removed",
        "schedule": "cosine, T = 4000, respaced; rescale_timesteps; timesteps 0, s, 2 s, ... with s = 400 or 40",
    }
    cases = {}
    for invert in (False, True):
        for respacing in ("ddim10", "ddim100"):
            for clip in (True, False):
                name = f"{'invert' if invert else 'sample'}/{respacing}/{'clipped' if clip else 'unclipped'}"
                cases[f"{name}/float32"] = trajectory(respacing, clip, invert, torch.float32)
                with float64_coefficients():
                    cases[f"{name}/float64"] = trajectory(respacing, clip, invert, torch.float64)
    return {"source": SOURCE, "keys": keys, "cases": cases}


def main() -> None:
    """Write the three files."""
    for name, numbers in (("unet", unet_numbers), ("losses", loss_numbers), ("ddim", ddim_numbers)):
        text = json.dumps(numbers(), indent=1)
        (GOLDEN / f"{name}.json").write_text(text + "\n")
        print(f"{name}.json: {len(text) / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
