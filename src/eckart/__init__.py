"""Eckart makes pretrained transformers smaller by low-rank factorisation after training.

    import eckart
    report = eckart.compress(model, keep=0.6, calibration="text.txt", tokenizer=tokenizer)
    eckart.save(model, report, "smaller", tokenizer=tokenizer)

Importing this package lets ``from_pretrained`` load what it wrote. It touches no accelerator, and imports no more than
loading needs: the names below are imported when they are asked for.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

from eckart.adapters.connect import connect
from eckart.checkpoint.registration import register
from eckart.lazy import importer

if TYPE_CHECKING:
    from eckart.cache import latent_cache, remove_latent_cache
    from eckart.checkpoint.load import load_model
    from eckart.checkpoint.processor import load_processor
    from eckart.checkpoint.save import save
    from eckart.checkpoint.tokenizer import load_tokenizer
    from eckart.compression.callback import Callback
    from eckart.compression.callback import Callback as Observer
    from eckart.compression.result import CompressionResult
    from eckart.compression.result import CompressionResult as Report
    from eckart.draft import make_draft
    from eckart.errors import EckartError
    from eckart.evaluate import perplexity
    from eckart.layers import LowRankLinear, PivotedLinear
    from eckart.layers.joined import join_first_factors
    from eckart.methods.recipe import Recipe
    from eckart.methods.recipes.loader import load_recipe
    from eckart.methods.recipes.published import RECIPES
    from eckart.run.compress import compress
    from eckart.run.compress_checkpoint import compress_checkpoint
    from eckart.runtimes.export import export

__version__ = version("eckart")
__all__ = [
    "RECIPES",
    "Callback",
    "CompressionResult",
    "EckartError",
    "LowRankLinear",
    "Observer",
    "PivotedLinear",
    "Recipe",
    "Report",
    "compress",
    "compress_checkpoint",
    "export",
    "join_first_factors",
    "latent_cache",
    "load_model",
    "load_processor",
    "load_recipe",
    "load_tokenizer",
    "make_draft",
    "perplexity",
    "remove_latent_cache",
    "save",
]

__getattr__ = importer(
    __name__,
    {
        "RECIPES": "eckart.methods.recipes.published:RECIPES",
        "Callback": "eckart.compression.callback:Callback",
        "CompressionResult": "eckart.compression.result:CompressionResult",
        "EckartError": "eckart.errors:EckartError",
        "LowRankLinear": "eckart.layers:LowRankLinear",
        "PivotedLinear": "eckart.layers:PivotedLinear",
        "Recipe": "eckart.methods.recipe:Recipe",
        "compress": "eckart.run.compress:compress",
        "compress_checkpoint": "eckart.run.compress_checkpoint:compress_checkpoint",
        "export": "eckart.runtimes.export:export",
        "join_first_factors": "eckart.layers.joined:join_first_factors",
        "latent_cache": "eckart.cache:latent_cache",
        "load_model": "eckart.checkpoint.load:load_model",
        "load_processor": "eckart.checkpoint.processor:load_processor",
        "load_recipe": "eckart.methods.recipes.loader:load_recipe",
        "load_tokenizer": "eckart.checkpoint.tokenizer:load_tokenizer",
        "make_draft": "eckart.draft:make_draft",
        "perplexity": "eckart.evaluate:perplexity",
        "remove_latent_cache": "eckart.cache:remove_latent_cache",
        "save": "eckart.checkpoint.save:save",
        # Older names.
        "Observer": "eckart.compression.callback:Callback",
        "Report": "eckart.compression.result:CompressionResult",
    },
)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register()
connect()
