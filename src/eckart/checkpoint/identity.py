"""What makes two runs the same run, from the recipe to the versions of the software; written into what is made."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch

from eckart import processes
from eckart.data.calibration import Calibration
from eckart.device import compute_dtype
from eckart.methods.recipe import Recipe
from eckart.methods.registry import foreign_versions

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROCESSES = "processes"
SOME_NUMBERS = 4096  # of a tensor, about


def versions(recipe: Recipe | None) -> dict[str, str]:
    """Return the versions of the software that numbers depend on, with those of plug-ins that the recipe names."""
    chosen = [] if recipe is None else [recipe.objective, recipe.allocation, recipe.structure]
    return {
        "python": platform.python_version(),
        **{package: version(package) for package in ("eckart", "torch", "transformers")},
        **foreign_versions(chosen),
    }


SIZE = "size"  # what a run is told by that was asked for one


def identity_of_run(
    recipe: Recipe,
    keep: float,
    calibration: Calibration | None,
    model: PreTrainedModel,
    files: Mapping[str, str],
    device: torch.device,
    size: int | None = None,
    latent_cache: int | None = None,
    nested: bool = False,
) -> dict[str, Any]:
    """Return the identity of a run, as plain data.

    Args:
        recipe: what is done.
        keep: bytes to keep, as a share.
        calibration: the tokens, or None if the recipe looks at none.
        model: that it is done to.
        files: SHA-256 of the files of the model's weights, by name.
        device: where blocks are run.
        size: bytes of the whole model, if that was asked for; ``keep`` is then what follows from it.
        latent_cache: bits of the latents that the model's cache is to keep, if any.
        nested: whether components of all layers are put in an order.
    """
    return {
        "recipe": recipe.model_dump(mode="json"),
        "keep": keep,
        "calibration": calibration.record.model_dump() if calibration else None,
        "model": {
            "revision": getattr(model.config, "_commit_hash", None),
            "config": hashlib.sha256(_configuration(model)).hexdigest(),
            "files": dict(files),
        },
        **({} if size is None else {SIZE: size}),
        **({} if latent_cache is None else {"latent_cache": latent_cache}),
        **({"nested": True} if nested else {}),
        "compute": f"{compute_dtype(model.dtype, device)} on {device.type}".removeprefix("torch."),
        "versions": versions(recipe),
        # Sums over other parts are rounded in another way.
        **({PROCESSES: processes.size()} if processes.size() > 1 else {}),
    }


def digest_of(model: PreTrainedModel) -> str:
    """Return a hash of the numbers of a model, and of its configuration but for where it came from."""
    found = hashlib.sha256(_configuration(model))
    for name, tensor in model.state_dict().items():
        found.update(f"{name} {tensor.dtype}".encode())
        found.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def digest_of_some(model: PreTrainedModel) -> str:
    """Return a hash of some numbers of each tensor of a model: soon there, and another one for another model."""
    found = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        some = tensor.detach().reshape(-1)[:: max(1, tensor.numel() // SOME_NUMBERS)]
        found.update(some.cpu().contiguous().view(torch.uint8).numpy().data)
    return found.hexdigest()


def _configuration(model: PreTrainedModel) -> bytes:
    """Return the configuration as bytes to hash, without what depends on how the path to the model was spelled."""
    config = {k: v for k, v in model.config.to_dict().items() if k not in ("_name_or_path", "transformers_version")}
    return json.dumps(config, sort_keys=True, default=str).encode()


def differences(before: Any, now: Any, name: str = "", form: str = "{name} was {before!r} and is {now!r}") -> list[str]:
    """Return, for each field in which two identities differ, its name and both values, in words."""
    if isinstance(before, dict) and isinstance(now, dict):
        return [
            line
            for key in sorted(before.keys() | now.keys())
            for line in differences(before.get(key), now.get(key), f"{name}.{key}" if name else key, form)
        ]
    return [] if before == now else [form.format(name=name, before=before, now=now)]
