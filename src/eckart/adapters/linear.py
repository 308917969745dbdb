"""LoRA on one layer of a compressed model, whatever holds its weight."""

from __future__ import annotations

import warnings
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import torch
from peft.tuners import lora
from peft.tuners.tuners_utils import check_adapters_to_merge
from torch import Tensor, nn

from eckart.adapters.growth import add_product, take_product, why_not
from eckart.adapters.place import Place
from eckart.errors import AdapterError

if TYPE_CHECKING:
    from peft import LoraConfig

INITIALISATIONS = (True, False, "gaussian", "orthogonal", "eva")  # those that leave the weight itself alone


class CompressedLoraLinear(lora.Linear):  # type: ignore[misc]
    """``y = layer(x) + scaling * B A x``: PEFT's own LoRA of a linear layer, with one of ours in it.

    What differs is where sizes, device and dtype are read, and how the product is merged: it makes the factors longer.
    PEFT takes a class whose name ends so for one on a linear layer.
    """

    def _get_in_out_features(self, module: nn.Module) -> tuple[int, int]:
        return Place.of(module).features

    def _get_base_layer_device_and_dtype(self, base_layer: nn.Module) -> tuple[torch.device, torch.dtype]:
        # The weight itself would have to be multiplied.
        numbers = Place.of(base_layer).numbers
        return numbers.device, numbers.dtype

    def update_layer(self, adapter_name: str, *args: Any, config: LoraConfig, **kwargs: Any) -> None:
        """Give the layer an adapter.

        Raises:
            AdapterError: the config asks for more than a product beside the layer.
        """
        check_config(config)
        self.fan_in_fan_out = False  # also where the layer stands for one whose weight is the transpose
        super().update_layer(adapter_name, *args, config=config, **kwargs)

    @property
    def place(self) -> Place:
        """Where the weight is."""
        return Place.of(self.get_base_layer())

    def to_merge(self, adapter_names: list[str] | None) -> list[str]:
        """Return which of these adapters, by default the active ones, the layer has and has not merged."""
        names = self.active_adapters if adapter_names is None else adapter_names
        return [name for name in names if name in self.lora_A and name not in self.merged_adapters]

    def why_not_merge(self, adapter_names: list[str], rank: int) -> str | None:
        """Return why adapters cannot be merged, or None if they can.

        Args:
            adapter_names: of :meth:`to_merge`.
            rank: of all that is to be added to the layer that holds the weight.
        """
        if any(self.lora_bias[name] for name in adapter_names):
            return "the adapter has biases (lora_bias)"
        return why_not(self.place.layer, rank)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Make the factors longer by those of adapters.

        Args:
            safe_merge: look for numbers that are not finite first.
            adapter_names: by default the active ones.

        Raises:
            AdapterError: the layer cannot hold them, or they are not finite.
        """
        place = self.place
        check_adapters_to_merge(self, adapter_names)  # which warns as PEFT does
        for name in self.to_merge(adapter_names):
            down, up = self.lora_A[name].weight, self.lora_B[name].weight * self.scaling[name]
            if safe_merge and not (down.isfinite().all() and up.isfinite().all()):
                raise AdapterError(f"The adapter {name} holds numbers that are NaN or infinite. Train it again.")
            add_product(place.layer, (place.number, name), down, place.widened(up))
            self.merged_adapters.append(name)
            self._forget()

    def unmerge(self) -> None:
        """Take all adapters that are merged away again: the layer has the very numbers that it had."""
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)  # in PEFT's words
        place = self.place
        while self.merged_adapters:
            take_product(place.layer, (place.number, self.merged_adapters.pop()))
            self._forget()

    def get_delta_weight(self, adapter: str) -> Tensor:
        """Return what an adapter adds to the weight, (out features, in features)."""
        delta: Tensor = super().get_delta_weight(adapter)
        return delta

    def _forget(self) -> None:
        leader = self.place.leader
        if leader is not None:
            leader.forget()


def check_config(config: LoraConfig) -> None:
    """Raise unless an adapter is plain LoRA, a product that is added to the outputs.

    Raises:
        AdapterError: names the fields that ask for more, which PEFT computes from the weight itself, or stores there.
    """
    found = [
        f"{field.name}={value!r}"
        for field in fields(config)
        if field.metadata.get("is_lora_variant") and (value := getattr(config, field.name))
    ]
    if config.init_lora_weights not in INITIALISATIONS:
        found.append(f"init_lora_weights={config.init_lora_weights!r}")
    if found:
        raise AdapterError(
            f"Found {', '.join(found)} in the LoraConfig; a layer that is held compressed takes plain LoRA, with "
            f"init_lora_weights one of {', '.join(map(repr, INITIALISATIONS))}. Leave it out, or make the model dense "
            "first (model.dequantize())."
        )
