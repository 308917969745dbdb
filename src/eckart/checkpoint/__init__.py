"""Compressed models as Hugging Face folders: written atomically, loaded by plain ``from_pretrained``."""

from __future__ import annotations

from eckart.checkpoint.load import load_model as load_model
from eckart.checkpoint.quantizer import register as register
from eckart.checkpoint.save import save as save
from eckart.checkpoint.tokenizer import load_tokenizer as load_tokenizer
