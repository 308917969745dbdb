"""PEFT's LoRA of a model, for models with compressed layers in them. On all others it does what PEFT does.

When this is imported it takes the place of PEFT's own class in PEFT's table of classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from peft import PEFT_TYPE_TO_TUNER_MAPPING, LoraConfig, PeftType
from peft.tuners.lora import LoraLayer, LoraModel
from torch import nn
from transformers import PreTrainedModel

from eckart.adapters.growth import APART, settle
from eckart.adapters.linear import CompressedLoraLinear
from eckart.adapters.place import KINDS, whole_layers
from eckart.adapters.targets import check_parameters, check_saved_modules, name_whole_layers
from eckart.checkpoint.quantizer import note_ranks
from eckart.errors import AdapterError
from eckart.layers import KeptLinear


class CompressedLoraModel(LoraModel):  # type: ignore[misc]
    """See :class:`peft.LoraModel`."""

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Put an adapter on layers of a model, as its config names them."""
        config = self.peft_config[adapter_name]
        if isinstance(config, LoraConfig) and next(whole_layers(model), None) is not None:
            check_saved_modules(config, model)
            known = config._custom_modules or {}
            config._register_custom_module({kind: CompressedLoraLinear for kind in KINDS if kind not in known})
            name_whole_layers(config, model, self._check_target_module_exists)
        super().inject_adapter(model, adapter_name, *args, **kwargs)

    def _inject_parameters(
        self, peft_config: LoraConfig, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any
    ) -> list[str]:
        targeted = [path for path, layer in self._adapted() if adapter_name in layer.lora_A]
        check_parameters(peft_config, model, targeted)
        found: list[str] = super()._inject_parameters(peft_config, model, adapter_name, *args, **kwargs)
        return found

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        if isinstance(child, CompressedLoraLinear):
            settle(child.place.layer)  # what was merged stays
        if isinstance(new_module, CompressedLoraLinear):
            # PEFT would ask for the weight of each of its parts, to find a device that the adapter is on already.
            setattr(parent, child_name, new_module)
        else:
            super()._replace_module(parent, child_name, new_module, child)

    def merge_adapter(self, adapter_names: list[str] | None = None, safe_merge: bool = False) -> None:
        """Merge adapters into the layers.

        Raises:
            AdapterError: a layer cannot hold one; none was merged.
        """
        self._check_merge(adapter_names)
        super().merge_adapter(adapter_names=adapter_names, safe_merge=safe_merge)

    def _unload_and_optionally_merge(
        self,
        merge: bool = True,
        progressbar: bool = False,
        safe_merge: bool = False,
        adapter_names: list[str] | None = None,
    ) -> nn.Module:
        if merge:
            self._check_merge(adapter_names)
        model: nn.Module = super()._unload_and_optionally_merge(
            merge=merge, progressbar=progressbar, safe_merge=safe_merge, adapter_names=adapter_names
        )
        if isinstance(model, PreTrainedModel):
            note_ranks(model)
        return model

    def _adapted(self) -> Iterator[tuple[str, CompressedLoraLinear]]:
        for path, module in self.model.named_modules():
            if isinstance(module, CompressedLoraLinear):
                yield path, module

    def _check_merge(self, adapter_names: list[str] | None) -> None:
        """Raise before anything is merged if something cannot be."""
        adapted = [(path, layer, layer.to_merge(adapter_names)) for path, layer in self._adapted()]
        ranks: Counter[int] = Counter()
        for _, layer, names in adapted:
            ranks[id(layer.place.layer)] += sum(layer.r[name] for name in names)
        reasons = {
            path: reason
            for path, layer, names in adapted
            if names and (reason := layer.why_not_merge(names, ranks[id(layer.place.layer)])) is not None
        }
        for path, module in self.model.named_modules():
            base = module.get_base_layer() if isinstance(module, LoraLayer) else None
            if isinstance(base, KeptLinear) and base.index is not None:
                reasons[path] = "it holds some of its outputs or inputs only, and the adapter changes all"
        if reasons:
            path, reason = next(iter(reasons.items()))
            more = f" (nor into {len(reasons) - 1} others)" if len(reasons) > 1 else ""
            raise AdapterError(f"The adapter cannot be merged into {path}{more}: {reason}. {APART}")


PEFT_TYPE_TO_TUNER_MAPPING[PeftType.LORA] = CompressedLoraModel
