"""The key-value caches that a model can be measured with: of keys and values, of latents, quantised, or a window."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicSlidingWindowLayer, QuantizedCache

from eckart.cache import latent_cache, remove_latent_cache
from eckart.cache.latent_codes import BITS
from eckart.errors import EckartError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MakeCache = Callable[[], Cache]
KINDS = ("dense", "latent", "quanto", "hqq", "window")
QUANTISED_BITS = {"quanto": (2, 4), "hqq": (1, 2, 3, 4, 8)}
RECENT = 128  # tokens that transformers' quantised cache keeps as they are


@dataclass(frozen=True)
class CacheKind:
    """Which cache, by a name and a number.

    Attributes:
        name: one of :data:`KINDS`.
        number: bits of a latent or of a quantised number, or the tokens of a window; 0 for ``dense``.
    """

    name: str
    number: int = 0

    @classmethod
    def parse(cls, text: str) -> CacheKind:
        """Return the kind that a user names, such as ``latent:8``.

        Raises:
            EckartError: there is none of that name or number.
        """
        name, _, number = text.partition(":")
        if name not in KINDS or (number and not number.isdecimal()):
            raise EckartError(
                f"No cache is called {text!r}. Use dense, latent, latent:BITS, quanto:BITS, hqq:BITS or window:TOKENS."
            )
        value = int(number) if number else {"latent": 16, "quanto": 4, "hqq": 4}.get(name, 0)
        allowed = {"latent": BITS, **QUANTISED_BITS}.get(name)
        if allowed is not None and value not in allowed:
            raise EckartError(f"A cache {name!r} has {', '.join(map(str, allowed))} bits, found {value}.")
        if name == "window" and value < 2:
            raise EckartError("A window has two tokens or more: use window:TOKENS, such as window:512.")
        if name == "dense" and number:
            raise EckartError("The cache 'dense' takes no number.")
        return cls(name, value)

    def __str__(self) -> str:
        return f"{self.name}:{self.number}" if self.number else self.name

    def prepare(self, model: PreTrainedModel) -> MakeCache:
        """Let a model use it, and return what makes an empty one.

        Args:
            model: whose latents are kept from then on, or not any more.

        Raises:
            EckartError: latents cannot be kept in this model, the package that quantises is not installed, or
                transformers quantises no cache of this model.
        """
        remove_latent_cache(model)
        if self.name == "latent":
            latent_cache(model, self.number)
        config = model.config.get_text_config(decoder=True)
        if self.name == "window":
            layers = config.num_hidden_layers
            return lambda: Cache(layers=[DynamicSlidingWindowLayer(self.number) for _ in range(layers)])
        if self.name in QUANTISED_BITS:
            options: dict[str, Any] = {"nbits": self.number, "residual_length": RECENT}
            if self.name == "hqq":  # of keys by channel, of values by token, as in KIVI
                options |= {"axis_key": 0, "axis_value": 1}
            try:
                QuantizedCache(self.name, config, **options)
            except (ImportError, NameError) as error:
                package = {"quanto": "optimum-quanto", "hqq": "hqq"}[self.name]
                raise EckartError(f"A cache {self.name!r} needs a package: pip install {package}.") from error
            except ValueError as error:  # such as sliding windows
                raise EckartError(
                    f"transformers makes no cache {self.name!r} for this model: {error}. Use latent:4 or latent:8."
                ) from error
            return lambda: QuantizedCache(self.name, config, **options)
        return lambda: DynamicCache(config=config)


def cache_bytes(cache: Cache, number_bytes: int | None = None) -> int:
    """Return the bytes that a cache holds, measured on its tensors.

    Args:
        cache: of transformers, or with latents; what its layers share is counted once.
        number_bytes: of a number that is no code, as it would be in another dtype; None for those that there are.
    """
    found: dict[int, Tensor] = {}
    for layer in cache.layers:
        for value in vars(layer).values():
            _add(value, found)
    sizes = (
        (tensor.numel(), number_bytes if number_bytes and tensor.is_floating_point() else tensor.element_size())
        for tensor in found.values()
    )
    return sum(count * size for count, size in sizes)


def _add(value: Any, found: dict[int, Tensor]) -> None:
    """Count a tensor, what holds tensors, and what a package quantised, each once."""
    if isinstance(value, Tensor):
        inner = [getattr(value, name, None) for name in ("_data", "_scale", "_shift")]
        if any(isinstance(part, Tensor) for part in inner):  # of quanto, a tensor that wraps its parts
            for part in inner:
                _add(part, found)
        elif value.ndim > 1:
            found[value.data_ptr() if value.numel() else id(value)] = value
    elif isinstance(value, dict):
        for part in value.values():
            _add(part, found)
    elif isinstance(value, list | tuple):
        for part in value:
            _add(part, found)
    elif hasattr(value, "kept"):  # what layers with latents share
        _add(value.kept, found)
