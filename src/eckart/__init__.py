"""Eckart makes pretrained transformers smaller by low-rank factorisation after training.

    import eckart
    report = eckart.compress(model, keep=0.6, calibration="text.txt", tokenizer=tokenizer)
    eckart.save(model, report, "smaller", tokenizer=tokenizer)

Importing this package lets ``from_pretrained`` load what it wrote. It touches no accelerator.
"""

from __future__ import annotations

from importlib.metadata import version

from eckart.checkpoint import load_model as load_model
from eckart.checkpoint import load_tokenizer as load_tokenizer
from eckart.checkpoint import register, save
from eckart.compression.callback import Callback as Callback
from eckart.compression.callback import Callback as Observer
from eckart.compression.result import CompressionResult as CompressionResult
from eckart.errors import EckartError as EckartError
from eckart.evaluate import perplexity as perplexity
from eckart.layers import LowRankLinear as LowRankLinear
from eckart.layers import PivotedLinear as PivotedLinear
from eckart.methods.recipe import Recipe as Recipe
from eckart.methods.recipes.loader import load_recipe as load_recipe
from eckart.methods.recipes.published import RECIPES as RECIPES
from eckart.run.compress import compress as compress
from eckart.run.compress_checkpoint import compress_checkpoint as compress_checkpoint

__version__ = version("eckart")
__all__ = [
    "RECIPES",
    "Callback",
    "EckartError",
    "LowRankLinear",
    "Observer",
    "PivotedLinear",
    "Recipe",
    "Report",
    "compress",
    "compress_checkpoint",
    "load_model",
    "load_recipe",
    "load_tokenizer",
    "perplexity",
    "save",
]

register()
