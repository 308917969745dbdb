"""What a user sees of the latent cache: nothing but fewer bytes."""

from __future__ import annotations

import copy
import gc
import warnings
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.cache.helpers import IDS, assert_alike, factored, in_pieces, pair
from tests.conftest import CONFIGS, VOCABULARY, make_model
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    PreTrainedModel,
    Qwen3Config,
    StaticCache,
    T5Config,
    T5ForConditionalGeneration,
)

import eckart
from eckart.cache.attach import latent_cache, latent_cache_of, remove_latent_cache
from eckart.cache.latent_layer import LatentLayer, LatentLayerMixin, LatentSlidingWindowLayer
from eckart.errors import EckartError, EckartWarning

GREEDY: dict[str, Any] = {"do_sample": False, "pad_token_id": 0, "return_dict_in_generate": True, "output_logits": True}


def generated(model: PreTrainedModel, ids: Tensor = IDS, tokens: int = 12, **options: Any) -> Any:
    return model.generate(ids, max_new_tokens=tokens, min_new_tokens=tokens, **GREEDY, **options)


def assert_same_text(ours: Any, theirs: Any) -> None:
    assert torch.equal(ours.sequences, theirs.sequences)
    for mine, other in zip(ours.logits, theirs.logits, strict=True):
        assert_alike(mine, other)


@pytest.mark.parametrize(
    "overrides",
    [[], ["structure=pivoted"], ["structure=remapped"], ["precision=8-bit"], ["sharing=shared"]],
    ids=["two factors", "pivoted", "remapped", "8 bits", "shared"],
)
@pytest.mark.parametrize("kind", CONFIGS)
def test_nothing_is_lost_and_less_is_held(kind: str, overrides: list[str]) -> None:
    model, dense = pair(kind, *overrides)
    cache = latent_cache(model)
    mask = torch.ones_like(IDS)
    mask[0, :4] = 0  # padding on the left
    ours, theirs = generated(model, attention_mask=mask), generated(dense, attention_mask=mask)
    assert_same_text(ours, theirs)
    assert len(cache.attentions) == len(cache.size.layers) == len(ours.cache.layers)
    assert cache.size.reasons == {}
    assert cache.size.share < 0.95
    # As many bytes as were told, on the tensors; the last token is in no cache.
    for layer, told in zip(ours.cache.layers, cache.size.layers, strict=True):
        assert isinstance(layer, LatentLayerMixin)
        assert layer.token_bytes() * len(IDS) ** -1 == told.stored < told.dense
    stores = {id(layer.beside): layer.beside for layer in ours.cache.layers}
    tokens = IDS.shape[1] + 11
    if kind != "gemma3":  # whose windows drop tokens
        assert sum(store.bytes() for store in stores.values()) == len(IDS) * tokens * cache.size.shared


def test_norms_between_projection_and_cache() -> None:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        tie_word_embeddings=False,
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    eckart.compress(model, "svd", 0.35)
    dense = copy.deepcopy(model)
    assert len(latent_cache(model).attentions) == 2
    assert_same_text(generated(model), generated(dense))


def test_sliding_windows_hold_latents_of_a_window() -> None:
    model, dense = pair("gemma3")
    latent_cache(model)
    ours, theirs = generated(model, tokens=20), generated(dense, tokens=20)
    assert_same_text(ours, theirs)
    kinds = [type(layer) for layer in ours.cache.layers]
    assert kinds == [LatentSlidingWindowLayer, LatentLayer] * 2
    assert [layer.stored_tokens() for layer in ours.cache.layers] == [7, 28, 7, 28]
    # The two kinds are rotated by different angles.
    assert len({id(layer.beside) for layer in ours.cache.layers}) == 2


@pytest.mark.parametrize("kind", ["llama", "gemma3", "gpt2"])
def test_beams(kind: str) -> None:
    model, dense = pair(kind)
    latent_cache(model)
    mask = torch.ones_like(IDS)
    mask[1, :3] = 0
    options = {"num_beams": 3, "attention_mask": mask}
    ours, theirs = (each.generate(IDS, max_new_tokens=10, pad_token_id=0, **options) for each in (model, dense))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_assisted_decoding_crops(kind: str) -> None:
    model, dense = pair(kind)
    latent_cache(model)
    helper = make_model(kind, seed=1)  # whose guesses are rejected
    options = {"assistant_model": helper, "do_sample": False, "pad_token_id": 0, "max_new_tokens": 14}
    assert torch.equal(model.generate(IDS[:1], **options), dense.generate(IDS[:1], **options))


def test_prompt_lookup_and_offloading_flags_work_as_before() -> None:
    model, dense = pair()
    latent_cache(model)
    ids = IDS[:1].repeat(1, 2)
    options: dict[str, Any] = {"prompt_lookup_num_tokens": 3, "do_sample": False, "max_new_tokens": 12}
    assert torch.equal(model.generate(ids, **options), dense.generate(ids, **options))


def test_pieces_of_any_length_give_the_same_logits() -> None:
    model, dense = pair()
    latent_cache(model)
    expected, _ = in_pieces(dense, IDS, 9)
    for pieces in ((9,), (1,) * 9, (3, 5, 1)):
        assert_alike(in_pieces(model, IDS, *pieces)[0], expected)


def test_a_copied_cache_goes_on_alone_and_holds_no_model() -> None:
    model, dense = pair()
    latent_cache(model)
    _, prefix = in_pieces(model, IDS[:, :5], 5)
    once, again = (in_pieces(model, IDS[:, 5:], 4, cache=copy.deepcopy(prefix))[0] for _ in range(2))
    expected = in_pieces(dense, IDS, 9)[0][:, 5:]
    assert_alike(once, expected)
    assert_alike(again, expected)
    _, cache = in_pieces(model, IDS, 9)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
    assert cache.get_seq_length() == 9


@pytest.mark.parametrize("change", ["batch_repeat_interleave", "batch_select_indices", "reorder_cache"])
def test_batches_are_changed(change: str) -> None:
    model, dense = pair()
    latent_cache(model)
    positions = torch.tensor([[0, 1, 2, 3, 4], [3, 4, 5, 6, 7]])  # so that sequences differ in what is beside latents
    argument: Any = 2 if change == "batch_repeat_interleave" else torch.tensor([1, 0])
    found = []
    for each in (model, dense):
        with torch.no_grad():
            cache = each(input_ids=IDS[:, :5], position_ids=positions, use_cache=True).cache
            getattr(cache, change)(argument)
            new = IDS[:, 5:6].repeat_interleave(2, 0) if change == "batch_repeat_interleave" else IDS[:, 5:6]
            place = torch.full_like(new, 9)
            found.append(each(input_ids=new, position_ids=place, use_cache=True, cache=cache).logits)
    assert_alike(*found)


def test_a_cache_that_is_reset_or_cropped_is_used_again() -> None:
    model, dense = pair()
    latent_cache(model)
    expected, _ = in_pieces(dense, IDS, 9)
    logits, cache = in_pieces(model, IDS, 5, 4)
    cache.crop(-4)
    assert cache.get_seq_length() == 5
    assert_alike(in_pieces(model, IDS[:, 5:], 2, 2, cache=cache)[0], expected[:, 5:])
    cache.reset()
    assert cache.get_seq_length() == 0
    assert_alike(in_pieces(model, IDS, 5, 4, cache=cache)[0], logits)


@pytest.mark.parametrize("bits", [8, 4, 3])
def test_fewer_bits_take_fewer_bytes_and_lose_a_little(bits: int) -> None:
    model, dense = pair()
    whole = latent_cache(model).size.stored
    cache = latent_cache(model, bits)
    assert cache.size.stored < whole
    expected, _ = in_pieces(dense, IDS, 9)
    ours, used = in_pieces(model, IDS, 5, 2, 2)
    error = float((ours - expected)[:, 5:].norm() / expected[:, 5:].norm())
    assert 1e-5 < error < {8: 0.02, 4: 0.25, 3: 0.6}[bits]
    assert used.layers[0].token_bytes() / len(IDS) == cache.size.layers[0].stored
    assert used.layers[0].keys.dtype == torch.uint8


@pytest.mark.parametrize("bits", [16, 8])
@pytest.mark.parametrize("kind", ["qwen2", "llama"])
def test_under_autocast(kind: str, bits: int) -> None:
    """Where products have another dtype than biases."""
    for model in (make_model(kind), factored(kind)):
        dense = copy.deepcopy(model)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", EckartWarning)
            latent_cache(model, bits)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found, expected = (in_pieces(each, IDS, 5, 2, 2)[0].float() for each in (model, dense))
        assert (found - expected).norm() < 0.03 * expected.norm()


def test_new_tokens_are_looked_at_as_they_are() -> None:
    """In few bits too: only what is held is rounded."""
    model, dense = pair()
    latent_cache(model, 3)
    expected, _ = in_pieces(dense, IDS, 9)
    errors = []
    for pieces in ((1, 8), (8, 1)):
        found, _ = in_pieces(model, IDS, *pieces)
        errors.append(float((found - expected)[:, -1].norm() / expected[:, -1].norm()))
    assert errors[0] < 0.8 * errors[1]


def test_passes_with_gradients_and_other_caches_are_left_alone() -> None:
    model, dense = pair()
    latent_cache(model)
    outputs = model(input_ids=IDS, use_cache=True)  # with gradients
    assert type(outputs.cache.layers[0]).__name__ == "DynamicLayer"
    outputs.logits.sum().backward()
    with pytest.warns(EckartWarning, match=r"This cache is a StaticCache, which keeps keys and values"):
        ours = in_pieces(model, IDS, 5, 4, cache=StaticCache(config=model.config, max_cache_len=9))[0]
    assert_alike(ours, in_pieces(dense, IDS, 9)[0])


def test_a_cache_that_was_begun_without_latents_goes_on_without() -> None:
    model, dense = pair()
    _, cache = in_pieces(dense, IDS[:, :5], 5)
    latent_cache(model)
    logits, used = in_pieces(model, IDS[:, 5:], 4, cache=cache)
    assert type(used.layers[0]).__name__ == "DynamicLayer"
    assert_alike(logits, in_pieces(dense, IDS, 9)[0][:, 5:])


def test_a_cache_that_a_user_makes_is_used() -> None:
    model, dense = pair()
    latent_cache(model)
    for made in (DynamicCache(), DynamicCache(config=model.config)):
        logits, used = in_pieces(model, IDS, 5, 4, cache=made)
        assert used is made
        assert isinstance(made.layers[0], LatentLayer)
        assert_alike(logits, in_pieces(dense, IDS, 9)[0])


def test_it_is_taken_off_again() -> None:
    model = factored()
    with pytest.raises(EckartError, match=r"Latents take 16, 8, 6, 5, 4, 3 bits, found 7"):
        latent_cache(model, 7)
    latent_cache(model)
    assert latent_cache_of(model) is not None
    latent_cache(model, 8)  # in place of the first
    remove_latent_cache(model)
    remove_latent_cache(model)
    assert latent_cache_of(model) is None
    assert type(in_pieces(model, IDS, 9)[1].layers[0]).__name__ == "DynamicLayer"
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


def test_why_nothing_is_saved_is_said() -> None:
    dense = make_model("llama")
    with pytest.warns(EckartWarning, match="No attention module can keep latents: 3 times: its projections are not"):
        cache = latent_cache(dense)
    assert cache.size.share == 1
    assert cache.attentions == ()
    large = make_model("llama")
    eckart.compress(large, "svd", 1.0, overrides=["structure=pivoted", "allocation=uniform", "targets.*.keep=0.99"])
    with pytest.warns(EckartWarning, match="No attention module can keep latents"):
        latent_cache(large)
    config = T5Config(vocab_size=32, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    with pytest.raises(EckartError, match=r"does not run on tokens alone|returns no DynamicCache"):
        latent_cache(T5ForConditionalGeneration(config).eval())


@pytest.mark.parametrize("kind", CONFIGS)
def test_any_model_keeps_outputs_in_few_bits(kind: str) -> None:
    """Dense ones too: their projections are rounded before norms and rotations."""
    model = make_model(kind)
    dense = copy.deepcopy(model)
    expected, _ = in_pieces(dense, IDS, 9)
    for bits, most in ((8, 0.01), (4, 0.2)):
        cache = latent_cache(model, bits)
        assert len(cache.attentions) == model.config.num_hidden_layers
        assert cache.size.share < 0.9
        found, used = in_pieces(model, IDS, 5, 2, 2)
        error = float((found - expected)[:, 5:].norm() / expected[:, 5:].norm())
        assert 1e-6 < error < most
        assert used.layers[0].token_bytes() / len(IDS) == cache.size.layers[0].stored
    copied = copy.deepcopy(model)
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    assert_alike(in_pieces(copied, IDS, 5, 2, 2)[0], found)
    remove_latent_cache(copied)
    assert not any(module._forward_hooks for module in copied.modules())


def test_one_side_is_kept_where_only_that_is_factored() -> None:
    model = make_model("llama")
    eckart.compress(model, "svd", 0.35, only=["*.v_proj"])
    dense = copy.deepcopy(model)
    cache = latent_cache(model)
    assert [(each.rebuilding.keys, each.rebuilding.values) for each in cache.attentions] == [(False, True)] * 3
    assert_same_text(generated(model), generated(dense))


def test_a_projection_that_was_changed_is_seen() -> None:
    """What an adapter adds to a projection does not follow from its latents."""
    model = factored()
    attention = model.model.layers[1].self_attn
    attention.k_proj = Added(attention.k_proj)
    dense = copy.deepcopy(model)
    cache = latent_cache(model)
    assert [each.rebuilding.keys for each in cache.attentions] == [True, False, True]
    assert_same_text(generated(model), generated(dense))


def test_an_adapter_that_comes_later_is_seen() -> None:
    model = factored()
    latent_cache(model)
    _, begun = in_pieces(model, IDS[:, :5], 5)
    for layer in model.model.layers:
        layer.self_attn.k_proj = Added(layer.self_attn.k_proj)
    dense = copy.deepcopy(model)
    remove_latent_cache(dense)
    with pytest.warns(EckartWarning, match="A projection was replaced since"):
        found, _ = in_pieces(model, IDS, 5, 4)
    with pytest.raises(EckartError, match="or of one that was changed"):
        in_pieces(model, IDS[:, 5:], 4, cache=begun)
    assert_alike(found, in_pieces(dense, IDS, 9)[0])


def test_an_adapter_that_adds_nothing_yet_is_seen() -> None:
    """Or is switched off, or adds so little that rounding to 16 bits hides it."""
    peft = pytest.importorskip("peft")
    for targets in (["k_proj", "v_proj"], ["q_proj", "o_proj"]):
        model = factored()
        peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=targets), model)
        model.eval()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", EckartWarning)
            attentions = latent_cache(model).attentions
        assert len(attentions) == (0 if "k_proj" in targets else 3)
        assert all(each.late is None for each in attentions)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter)
        dense = copy.deepcopy(model)
        remove_latent_cache(dense)
        assert_same_text(generated(model), generated(dense))


def test_an_output_projection_that_is_adapted_later_is_seen() -> None:
    peft = pytest.importorskip("peft")
    model = factored("llama", 0.35, "targets.*.v_proj.keep=0.75", "allocation=uniform", "allocation.multiple=1")
    assert model.model.layers[0].self_attn.v_proj.rank == 8  # as a head: latents would fit the projection
    attentions = latent_cache(model).attentions
    for each in attentions:
        assert each.late is not None
        each.late.always = True
    peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=["o_proj"], init_lora_weights=False), model)
    dense = copy.deepcopy(model)
    remove_latent_cache(dense)
    assert_same_text(generated(model), generated(dense))
    assert all(each.late is None for each in attentions)


def test_a_hook_that_comes_later_is_seen() -> None:
    model, dense = pair()
    latent_cache(model)
    for each in (model, dense):
        each.model.layers[1].self_attn.v_proj.register_forward_hook(lambda module, args, output: output * 1.5)
    with pytest.warns(EckartWarning, match="A projection was replaced since"):
        found, cache = in_pieces(model, IDS, 5, 4)
    assert_alike(found, in_pieces(dense, IDS, 9)[0])
    assert [isinstance(layer, LatentLayer) for layer in cache.layers] == [True, False, True]


@pytest.mark.parametrize("bits", [16, 8])
def test_weights_that_are_written_to_behind_autograd_are_seen(bits: int) -> None:
    model, dense = pair()
    latent_cache(model, bits)
    in_pieces(model, IDS, 5, 4)
    for each in (model, dense):
        for parameter in each.parameters():
            parameter.data.copy_(parameter.data * 1.2)
    assert_alike(in_pieces(model, IDS, 5, 2, 2)[0], in_pieces(dense, IDS, 9)[0], 1e-5 if bits == 16 else 0.05)


def test_what_is_held_is_constant_for_gradients() -> None:
    model, dense = pair()
    latent_cache(model)
    for _ in range(2):
        gradients = []
        for each in (model, dense):
            each.zero_grad()
            _, cache = in_pieces(each, IDS[:, :5], 5)
            each(input_ids=IDS[:, 5:7], use_cache=True, cache=cache).logits.sum().backward()
            gradients.append({name: parameter.grad for name, parameter in each.named_parameters()})
        ours, theirs = gradients
        assert ours.keys() == theirs.keys()
        for name, gradient in theirs.items():
            torch.testing.assert_close(ours[name], gradient, rtol=1e-3, atol=1e-5, msg=name)
        for each in (model, dense):
            torch.optim.SGD(each.parameters(), lr=1e-3).step()


def test_a_cache_that_nobody_uses_is_freed_at_once() -> None:
    model, _ = pair()
    latent_cache(model)
    gc.disable()
    try:
        _, cache = in_pieces(model, IDS, 5, 4)
        held = weakref.ref(cache.layers[0].keys)
        del cache
        assert held() is None
    finally:
        gc.enable()


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # of PEFT
def test_models_that_hold_one_another() -> None:
    peft = pytest.importorskip("peft")
    model = factored()
    latent_cache(model)
    with pytest.raises(EckartError, match="A model that holds this one keeps latents already"):
        latent_cache(model.model)
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"]))
    assert latent_cache_of(wrapped) is latent_cache_of(model)
    latent_cache(wrapped, 8)
    remove_latent_cache(wrapped)
    assert latent_cache_of(model) is None
    latent_cache(model.model)
    latent_cache(model)
    assert latent_cache_of(model.model) is None
    with pytest.raises(EckartError, match="found None"):
        latent_cache(model, None)  # type: ignore[arg-type]


def test_an_emptied_cache_is_used_by_another_model() -> None:
    model, dense = pair()
    latent_cache(model)
    _, cache = in_pieces(model, IDS, 5, 4)
    cache.reset()
    latent_cache(dense, 8)
    assert in_pieces(dense, IDS, 5, 4, cache=cache)[1].layers[0].keys.dtype == torch.uint8


class Added(torch.nn.Module):
    def __init__(self, base: torch.nn.Module) -> None:
        super().__init__()
        self.base, self.more = base, torch.nn.Linear(32, 16, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.base(inputs) + self.more(inputs)
        return outputs


def test_a_folder_says_so(tmp_path: Path, model_folder: Path) -> None:
    eckart.compress_checkpoint(model_folder, tmp_path / "small", "svd", 0.35, latent_cache=8)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "small")
    assert isinstance(generated(loaded).cache.layers[0], LatentLayer)
    found = latent_cache_of(loaded)
    assert found is not None
    assert found.bits == 8
    loaded.save_pretrained(tmp_path / "again")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    remove_latent_cache(again)  # before it was used
    assert type(generated(again).cache.layers[0]).__name__ == "DynamicLayer"
    again.save_pretrained(tmp_path / "without")
    without = AutoModelForCausalLM.from_pretrained(tmp_path / "without")
    assert without.config.quantization_config.latent_cache is None
    with pytest.warns(EckartWarning, match="its key-value cache keeps latents. It is written in Eckart's own format"):
        eckart.compress_checkpoint(model_folder, tmp_path / "int8", "int8", 0.6, latent_cache=4)
    rounded = AutoModelForCausalLM.from_pretrained(tmp_path / "int8")
    assert isinstance(generated(rounded).cache.layers[0], LatentLayer)
    with pytest.raises(EckartError, match="Latents take"):
        eckart.compress_checkpoint(model_folder, tmp_path / "none", "svd", 0.35, latent_cache=7)
    assert not (tmp_path / "none").exists()
