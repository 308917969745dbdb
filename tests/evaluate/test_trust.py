from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.evaluate.helpers import write_task
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from eckart.errors import EckartError
from eckart.evaluate import load_tasks, zero_shot

pytest.importorskip("lm_eval")
pytestmark = pytest.mark.usefixtures("quick")

CODE = [
    "process_docs: !function utils.docs\n",
    "metadata: {version: [1, !function utils.docs]}\n",
    "fewshot_config: {sampler: !function utils.docs}\n",
    "include: shared.txt\n",
    "include: [shared.txt]\n",
    "fewshot_config: &a {sampler: !!python/name:os.system }\n",
    "metric_list: [{metric: ./utils}]\n",
    "metric_list: [{<<: {metric: ./utils}}]\n",
    "metric_list: [{metric: acc, hf_evaluate: true}]\n",
]


@pytest.fixture
def marker(folder: Path) -> Path:
    """Say where code of the folder leaves a file when it is run."""
    marker = folder.parent / "code-was-run"
    (folder / "utils.py").write_text(
        f"open({str(marker)!r}, 'w').close()\n\n\ndef docs(dataset):\n    return dataset\n"
    )
    (folder / "shared.txt").write_text("process_docs: !function utils.docs\n")
    return marker


@pytest.mark.parametrize("line", CODE)
def test_code_of_a_definition_is_not_run_unless_trusted(line: str, folder: Path, marker: Path) -> None:
    path = write_task(folder, "bad")
    text = path.read_text()
    path.write_text((text.partition("metric_list")[0] if line.startswith("metric") else text) + line)
    with pytest.raises(EckartError, match=rf"{re.escape(str(folder))}/\w+\.\w+ names Python code .*trust-remote-code"):
        load_tasks(["bad"], path=folder)
    assert not marker.exists()


def test_code_that_is_trusted_is_run(folder: Path, marker: Path) -> None:
    with write_task(folder, "mine").open("a") as file:
        file.write(CODE[0])
    load_tasks(["mine"], path=folder, trust_remote_code=True)
    assert marker.exists()


def test_templates_reach_values_only(
    llama: PreTrainedModel, byte_tokenizer: PreTrainedTokenizerFast, folder: Path
) -> None:
    write_task(folder, "bad", doc_to_text="{{ question.__class__.__mro__ }}")
    with pytest.raises(EckartError, match=r"'bad' .*SecurityError"):
        zero_shot(llama, byte_tokenizer, load_tasks(["bad"], path=folder), limit=1)
