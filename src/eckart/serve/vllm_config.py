"""What vLLM calls a quantization config: it says for each of the engine's layers how that is loaded and run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn
from vllm.config import get_current_vllm_config
from vllm.model_executor.layers.linear import LinearBase

from eckart.checkpoint.config import EckartConfig
from eckart.checkpoint.quantizer import layout_of, layouts_of
from eckart.errors import ServingError
from eckart.serve.files import check_weight_files
from eckart.serve.part import check_form
from eckart.serve.plan import OTHERWISE, ServedConfig
from eckart.serve.vllm_linear import FactoredLinearMethod, WholeLinearMethod, count_shards
from eckart.serve.vllm_stub import MethodConfig

if TYPE_CHECKING:
    from vllm.model_executor.layers.quantization.base_config import QuantizeMethodBase

DRAFT = "draft_model."  # what vLLM puts in front of the paths of a model that proposes tokens for another one


class VllmConfig(MethodConfig):
    """The ``quantization_config`` of a compressed model, as vLLM asks for it.

    Attributes:
        served: what it says of linears, in vLLM's names.
        layout: of those that are replaced.
    """

    def __init__(self, config: EckartConfig) -> None:
        super().__init__()
        self.served = ServedConfig(config)
        self.layout = layout_of(config)
        if any(rank is not None for rank in config.ranks.values()):
            check_form(self.layout.structure.layer)
        self.served.layouts = layouts_of(config, self.layout)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> VllmConfig:
        """Return the config of the ``quantization_config`` of a config.json.

        Raises:
            CheckpointError: it is damaged, or of a newer format.
            ServingError: no engine can serve the model.
        """
        return cls(EckartConfig.from_dict(dict(config)))

    def maybe_update_config(self, model_name: str, *_: Any, **__: Any) -> None:
        """Look at the folder, once the model's name is known."""
        check_weight_files(model_name)

    def apply_vllm_mapper(self, hf_to_vllm_mapper: Any) -> None:
        """Take over the names of vLLM's modules."""
        self.served.rename(hf_to_vllm_mapper.map_name)

    def get_quant_method(self, layer: nn.Module, prefix: str) -> QuantizeMethodBase | None:
        """Return how a layer is loaded and run; None for what is no linear layer."""
        prefix = prefix.removeprefix(DRAFT)
        if isinstance(layer, LinearBase):
            shards = count_shards(layer)
            plans = self.served.plan(prefix, self.packed_modules_mapping, shards)
            if plans is None:
                _, _, leaf = prefix.rpartition(".")
                return WholeLinearMethod(prefix, len(self.packed_modules_mapping.get(leaf, [leaf])), self.check)
            return FactoredLinearMethod(prefix, plans, self.served, self.layout, self.check)
        inside = [path for path in self.served.ranks if path == prefix or path.startswith(f"{prefix}.")]
        if inside:
            raise ServingError(
                f"{inside[0]} is compressed, and lies in {prefix}, a {type(layer).__name__} of vLLM, which is no "
                f"linear layer. {OTHERWISE}"
            )
        return None

    def check(self) -> None:
        """Raise if vLLM's model has not asked for all linears that were replaced; to be called when it is built."""
        parallel = get_current_vllm_config().parallel_config
        self.served.check_all_asked(all_blocks=parallel.pipeline_parallel_size == 1)
