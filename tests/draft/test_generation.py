from __future__ import annotations

import pytest
import torch
from tests.conftest import make_model

import eckart
from eckart.draft.generation import measure_generation, set_proposals
from eckart.errors import EckartError

PROMPTS = torch.randint(256, (2, 12), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_bad_draft_changes_no_token(kind: str) -> None:
    model, draft = make_model(kind), make_model(kind)
    eckart.compress(draft, "svd", 0.5, device="cpu")
    set_proposals(draft, 3)
    done = []
    found = measure_generation(model, draft, PROMPTS, 12, repeats=1, on_run=lambda *step: done.append(step))
    assert (found.texts, found.same) == (2, 2)
    assert min(found.alone, found.with_draft) > 0
    assert done == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_what_transformers_refuses_is_said() -> None:
    model, other = make_model("llama"), make_model("llama")
    other.resize_token_embeddings(200)
    with pytest.raises(EckartError, match="transformers cannot use a draft of LlamaForCausalLM"):
        measure_generation(model, other, PROMPTS, 4, repeats=1)
