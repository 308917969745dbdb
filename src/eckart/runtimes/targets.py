"""What a model can be exported to: one entry a format."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

import torch

from eckart.errors import ExportError, suggest


@dataclass(frozen=True)
class Target:
    """A format.

    Attributes:
        name: of it.
        runtime: what runs it, in words.
        extra: of this package that it needs; None for what is always there.
        packages: that the extra brings, by the names under which they are imported.
        keeps_factors: whether a layer stays what it is; else factors are multiplied first.
        rounds: whether what is computed with, or what factors were multiplied to, is rounded to the dtype.
        dtype: of the numbers that are written if nothing else is asked for; None for that of the model.
        dtypes: that the runtime was seen to run.
        quantizers: how the runtime's own tools round weights, by name, with the packages that this takes.
    """

    name: str
    runtime: str
    extra: str | None
    packages: tuple[str, ...]
    keeps_factors: bool
    rounds: bool
    dtype: torch.dtype | None
    dtypes: tuple[torch.dtype, ...]
    quantizers: dict[str, tuple[str, ...]]

    def check(self, quantize: str | None) -> None:
        """Raise if a package is missing, or weights cannot be rounded that way.

        Raises:
            ExportError: says what to install, or which ways there are.
        """
        if quantize is not None and quantize not in self.quantizers:
            if not self.quantizers:
                raise ExportError(
                    f"Nothing is quantized in an export to {self.name}; found {quantize!r}. Leave out --quantize."
                )
            raise ExportError(
                f"An export to {self.name} cannot be quantized to {quantize!r}{suggest(quantize, self.quantizers)}"
            )
        needed = (*self.packages, *(self.quantizers[quantize] if quantize else ()))
        missing = [name for name in needed if find_spec(name) is None]
        if missing:
            raise ExportError(
                f"An export to {self.name} needs {', '.join(missing)}, which cannot be imported. Install it: pip "
                f"install 'eckart[{self.extra}]'."
            )


WHOLE, HALF, BRAIN = torch.float32, torch.float16, torch.bfloat16
TARGETS = {
    target.name: target
    for target in (
        Target(
            "onnx",
            "ONNX Runtime",
            "onnx",
            ("onnx", "onnxscript", "onnxruntime"),
            True,
            True,
            WHOLE,
            (WHOLE,),
            {"int8": (), "int4": ("nncf",)},
        ),
        Target(
            "openvino",
            "OpenVINO",
            "openvino",
            ("openvino",),
            True,
            False,
            None,
            (WHOLE, BRAIN),
            {"int8": ("nncf",), "int4": ("nncf",)},
        ),
        Target("executorch", "ExecuTorch", "executorch", ("executorch",), True, False, WHOLE, (WHOLE,), {}),
        Target(
            "gguf",
            "llama.cpp",
            "gguf",
            ("gguf",),
            False,
            True,
            None,
            (WHOLE, HALF, BRAIN),
            dict.fromkeys(("q8_0", "q5_1", "q5_0", "q4_1", "q4_0"), ()),
        ),
        Target("dense", "transformers", None, (), False, True, None, (WHOLE, HALF, BRAIN), {}),
    )
}


def target_of(name: str) -> Target:
    """Return the format of a name.

    Raises:
        ExportError: there is none.
    """
    if name not in TARGETS:
        raise ExportError(f"No format is called {name!r}{suggest(name, TARGETS)}")
    return TARGETS[name]


def holders_of_factors() -> str:
    """Return the names of all formats in which factors stay factors, for a message."""
    return ", ".join(target.name for target in TARGETS.values() if target.keeps_factors)
