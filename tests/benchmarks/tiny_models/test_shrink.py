from __future__ import annotations

from typing import Any

from tiny_models.rules import EXPERTS, HEAD_WIDTH, HEADS, VOCABULARY, WIDTH, Sizes
from tiny_models.shrink import fill, shrink
from transformers import BertConfig, MixtralConfig, Qwen2VLConfig, SwinConfig


def test_widths_that_were_equal_stay_equal():
    small = shrink(Qwen2VLConfig().to_dict(), Sizes())
    assert small["vision_config"]["hidden_size"] == small["text_config"]["hidden_size"] == WIDTH
    assert small["text_config"]["num_attention_heads"] == HEADS
    assert small["vision_config"]["spatial_merge_size"] == 2


def test_key_heads_stay_fewer_where_they_were():
    fields = {"num_attention_heads": 32, "num_key_value_heads": 8, "num_hidden_layers": 32}
    assert shrink(fields, Sizes())["num_key_value_heads"] == HEADS // 2
    assert shrink({**fields, "num_key_value_heads": 32}, Sizes())["num_key_value_heads"] == HEADS
    assert shrink({**fields, "num_key_value_heads": 1}, Sizes())["num_key_value_heads"] == 1


def test_a_layer_of_each_sort_is_kept():
    types = ["sliding", "sliding", "full"] * 4
    experts = ["dense"] + ["sparse"] * 11
    small = shrink({"num_hidden_layers": 12, "layer_types": types, "mlp_layer_types": experts}, Sizes())
    assert small["num_hidden_layers"] == len(small["layer_types"]) == 3
    assert small["layer_types"] == ["sliding", "sliding", "full"]
    assert small["mlp_layer_types"] == ["dense", "sparse", "sparse"]


def test_numbers_of_layers_are_those_that_are_left():
    fields = {"depth": 24, "deepstack_visual_indexes": [5, 11, 17], "fullatt_block_indexes": [23]}
    small = shrink(fields, Sizes())
    assert small["depth"] >= 3
    for name in ("deepstack_visual_indexes", "fullatt_block_indexes"):
        assert small[name]
        assert all(0 <= layer < small["depth"] for layer in small[name])


def test_what_single_layers_override_goes_with_them():
    fields = {
        "num_hidden_layers": 12,
        "head_dim": 256,
        "per_layer_config": {5: {"head_dim": 512}, 11: {"head_dim": 512}},
    }
    small = shrink(fields, Sizes())
    assert small["head_dim"] == HEAD_WIDTH
    assert list(small["per_layer_config"].values()) == [{"head_dim": 2 * HEAD_WIDTH}]
    assert all(layer < small["num_hidden_layers"] for layer in small["per_layer_config"])


def test_special_tokens_are_in_the_vocabulary_and_told_apart():
    small = shrink(
        {"image_token_id": 151655, "video_token_id": 151656, "pad_token_id": 0, "audio_token_index": 151655}, Sizes()
    )
    assert small["image_token_id"] == small["audio_token_index"] != small["video_token_id"]
    assert small["pad_token_id"] == 0
    assert max(small.values()) < VOCABULARY


def test_sections_of_positions_fill_the_rotated_pairs():
    rotation: dict[str, Any] = {"rope_type": "default", "mrope_section": [16, 24, 24]}
    fields = {"head_dim": 128, "rope_parameters": rotation}
    assert sum(shrink(fields, Sizes())["rope_parameters"]["mrope_section"]) == HEAD_WIDTH // 2
    rotation["partial_rotary_factor"] = 0.5
    assert sum(shrink(fields, Sizes())["rope_parameters"]["mrope_section"]) == HEAD_WIDTH // 4


def test_stages_keep_their_proportions():
    small = shrink(SwinConfig().to_dict(), Sizes())
    assert small["depths"] == [1, 1, 1, 1]
    assert small["num_heads"] == [1, 2, 4, 8]
    assert small["embed_dim"] == WIDTH // 4


def test_experts_are_few():
    small = shrink(MixtralConfig().to_dict(), Sizes())
    assert small["num_local_experts"] == EXPERTS
    assert small["num_experts_per_tok"] == 2


def test_a_shallow_config_keeps_its_widths():
    default = BertConfig().to_dict()
    small = shrink(default, Sizes(shallow=True))
    assert small["hidden_size"] == default["hidden_size"]
    assert small["num_hidden_layers"] == 2


def test_what_is_left_open_is_filled_in_all_configs():
    fields = {"head_dim": None, "text_config": {"num_key_value_heads": None, "name": None}}
    fill(fields)
    assert fields == {"head_dim": HEAD_WIDTH, "text_config": {"num_key_value_heads": HEADS // 2, "name": None}}
