"""A run that is asked for when it is finished already."""

from __future__ import annotations

from pathlib import Path

import pytest

import eckart
from eckart.errors import CheckpointError
from eckart.run.finished import finished_report

ABOUT = ("keep", "model", "compute", "versions")


@pytest.mark.filterwarnings("ignore::eckart.errors.EckartWarning")
def test_it_is_known_by_what_it_is_of(model_folder: Path, text_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = eckart.compress_checkpoint(model_folder, out, "svd-llm", 0.6, str(text_file), samples=2, length=24)
    config = eckart.load_model(out).config.quantization_config
    assert report.calibration is not None
    same = {name: config.provenance[name] for name in ABOUT}
    same |= {"recipe": report.recipe.model_dump(mode="json"), "calibration": report.calibration.model_dump()}
    found = finished_report(out, same, False)
    assert found is not None
    assert found.layers == report.layers
    other = same | {"processes": 2}
    with pytest.raises(CheckpointError, match="processes was None and is 2"):
        finished_report(out, other, False)
    assert finished_report(out, other, True) is None
    next(out.glob("*.safetensors")).unlink()
    with pytest.raises(CheckpointError, match="is gone or was changed"):
        finished_report(out, same, False)
