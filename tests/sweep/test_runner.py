from __future__ import annotations

import copy

import pytest
import torch
from tests.conftest import make_model

import eckart
from eckart import processes
from eckart.data.draw import tokenize
from eckart.data.text import read_text
from eckart.errors import CheckpointError, EckartError, EckartWarning
from eckart.sweep import SweepCallback, prepare, read_failures, read_rows, run
from eckart.sweep.evaluation import stored_bytes

OPTIONS = {"samples": [4], "length": 24, "windows": 3, "window_length": 32}


class Counter(SweepCallback):
    def __init__(self) -> None:
        self.statistics: list[tuple[int, int | None]] = []

    def on_statistics(self, recipes: int, samples: int | None) -> None:
        self.statistics.append((recipes, samples))


@pytest.fixture
def sweep(llama, tokenizer, text_file, tmp_path):
    def start(recipes, keep, **others):
        options = {"output": tmp_path / "sweep.sqlite", "texts": [str(text_file)], "calibration": str(text_file)}
        return prepare(llama, recipes, keep, tokenizer=tokenizer, **{**OPTIONS, **options, **others})

    return start


def test_rows_are_what_compress_and_perplexity_give(sweep, llama, tokenizer, text_file, tmp_path):
    rows = list(sweep(["svd", "zs-svd+structure=pivoted"], [0.8, 0.6]).run())
    assert read_rows(tmp_path / "sweep.sqlite") == rows
    assert [(row.label, row.keep) for row in rows[:2]] == [("dense", 1.0), ("svd", 0.8)]
    ids = tokenize(read_text(str(text_file)), tokenizer)
    assert rows[0].texts == {"text.txt": eckart.perplexity(llama, ids, length=32, windows=3)}
    assert (rows[0].recipe, rows[0].kept, rows[0].bytes) == (None, 1.0, stored_bytes(llama))
    assert rows[1].calibration is None
    last = rows[-1]
    report = eckart.compress(
        llama, last.recipe, last.keep, str(text_file), tokenizer=tokenizer, samples=4, length=24, seed=0
    )
    assert last.ranks == {layer.path: layer.rank for layer in report.layers}
    assert (last.kept, last.calibration) == (report.keep, report.calibration)
    expected = eckart.perplexity(llama, ids, length=32, windows=3).log_perplexity
    assert last.texts["text.txt"].log_perplexity == pytest.approx(expected, abs=1e-4)
    eckart.save(llama, report, tmp_path / "out")
    # The file has names and shapes too.
    written = sum(path.stat().st_size for path in (tmp_path / "out").glob("*.safetensors"))
    assert 0 < written - last.bytes < 20_000


def test_rows_that_are_solved_from_a_sketch_are_what_compress_gives(sweep, llama, tokenizer, text_file):
    labels = [f"{name}+solver=randomized+solver.limit=1" for name in ("svd", "svd-llm+sharing=shared")]
    rows = list(sweep(labels, [0.4]).run())
    ids = tokenize(read_text(str(text_file)), tokenizer)
    for row in rows[1:]:
        model = copy.deepcopy(llama)
        report = eckart.compress(
            model, row.recipe, row.keep, str(text_file), tokenizer=tokenizer, samples=4, length=24, seed=0
        )
        assert all(layer.sketch is not None for layer in report.layers)
        expected = eckart.perplexity(model, ids, length=32, windows=3).log_perplexity
        assert row.texts["text.txt"].log_perplexity == pytest.approx(expected, abs=1e-9)


def test_one_measurement_serves_all_sizes_and_recipes(sweep):
    counter = Counter()
    recipes = ["svd-llm", "zs-svd", "io-svd", "saes-svd", "zs-svd+sharing=shared", "svd"]
    rows = list(sweep(recipes, [0.8, 0.6], samples=[4, 6], callback=counter).run())
    assert len(rows) == 1 + 5 * 2 * 2 + 2
    # Apart from joint linears, which are other linears; and once for what looks at no data.
    assert sorted(counter.statistics, key=str) == sorted([(4, 4), (1, 4), (4, 6), (1, 6), (1, None)], key=str)
    assert {row.calibration.samples for row in rows if row.calibration} == {4, 6}
    assert all(row.shared_seconds > 0 for row in rows if row.label in ("svd", "zs-svd"))
    assert all(row.shared_seconds == 0 for row in rows if row.label in ("dense", "saes-svd"))


def test_a_sweep_that_was_stopped_goes_on(sweep, tmp_path):
    started = sweep(["svd", "svd-llm"], [0.8, 0.6]).run()
    before = [next(started) for _ in range(3)]
    started.close()
    assert read_rows(tmp_path / "sweep.sqlite") == before
    counter = Counter()
    again = sweep(["svd", "svd-llm"], [0.8, 0.6], callback=counter)
    after = list(again.run())
    assert [(row.label, row.keep) for row in after] == [("svd-llm", 0.8), ("svd-llm", 0.6)]
    assert counter.statistics == [(1, 4)]
    assert again.rows() == [*before, *after]
    assert list(again.run()) == []


def test_speed_is_measured_of_rows_that_are_there(sweep):
    assert next(sweep(["svd"], [0.6]).run()).speed is None
    rows = list(sweep(["svd"], [0.6], speed=True).run())
    assert [row.label for row in rows] == ["dense", "svd"]
    assert all(row.speed.decode > 0 and row.speed.dense_prefill > 0 for row in rows)


def test_a_row_that_fails_is_written_down(sweep, tmp_path):
    with pytest.warns(EckartWarning, match="eora at 0.2 failed: keep 0.2 allows"):
        rows = list(sweep(["eora", "svd-llm"], [0.2]).run())
    assert [row.label for row in rows] == ["dense", "svd-llm"]
    (failure,) = read_failures(tmp_path / "sweep.sqlite")
    assert (failure.label, failure.keep, failure.samples) == ("eora", 0.2, 4)
    assert [case.label for case in sweep(["eora", "svd-llm"], [0.2]).missing()] == ["eora"]


def test_another_model_or_text_is_refused(sweep, text_file, tmp_path, llama):
    list(sweep(["svd-llm"], [0.6]).run())
    for others, message in (
        ({"seed": 1}, "calibration.seed was 0 and is 1"),
        ({"length": 25}, "calibration.length was 24 and is 25"),
        ({"windows": 2}, "evaluation.windows was 3 and is 2"),
        ({"texts": [f"{text_file}:raw"]}, "evaluation.texts"),
    ):
        with pytest.raises(CheckpointError, match=message):
            sweep(["svd-llm"], [0.6], **others)
    with torch.no_grad():
        next(llama.parameters())[0, 0] += 1
    with pytest.raises(CheckpointError, match="another sweep: model was"):
        sweep(["svd-llm"], [0.6])


def test_other_calibration_tokens_are_refused(sweep, text_file, tmp_path):
    other = tmp_path / "calibration.txt"
    other.write_text(text_file.read_text())
    list(sweep(["svd-llm"], [0.6], calibration=str(other)).run())
    other.write_text(text_file.read_text().upper())
    with pytest.raises(CheckpointError, match="calibrated on other tokens of"):
        list(sweep(["svd-llm"], [0.6, 0.5], calibration=str(other)).run())


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"window_length": 10_000}, "do not fit into the model's context of 128"),
        ({"texts": []}, "at least one text"),
        ({"texts": ["nowhere.txt"]}, "No text is called 'nowhere.txt'"),
    ],
)
def test_what_cannot_be_measured_is_refused_at_once(sweep, others, message, tmp_path):
    with pytest.raises(EckartError, match=message):
        sweep(["svd"], [0.6], **others)
    assert not (tmp_path / "sweep.sqlite").exists()


def test_a_model_without_a_tokenizer_is_refused(text_file, tmp_path):
    with pytest.raises(EckartError, match="needs the model's tokenizer"):
        run(make_model("llama"), ["svd"], output=tmp_path / "x", texts=[str(text_file)])


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"calibration": "nowhere.txt"}, "No text is called"),
        ({"length": 129}, "Samples of 129 tokens do not fit"),
        ({"window_length": 129}, "Windows of 129 tokens do not fit .* --window-length 128"),
        ({"seed": 2**70}, "A seed is a whole number"),
        ({"samples": [10**9]}, "GB of memory"),
    ],
)
def test_no_file_is_left_where_nothing_can_be_measured(sweep, others, message, tmp_path):
    before = sorted(tmp_path.iterdir())
    with pytest.raises(EckartError, match=message):
        sweep(["svd-llm"], [0.8], **others)
    assert sorted(tmp_path.iterdir()) == before


def test_ids_that_the_embedding_lacks_are_named(sweep, tokenizer, tmp_path):
    tokenizer.add_tokens(["squared"])
    with pytest.raises(EckartError, match=r"The text 'text.txt' has the token id 256"):
        sweep(["svd"], [0.8])
    assert not (tmp_path / "sweep.sqlite").exists()


def test_a_sweep_that_is_done_needs_no_calibration_text(sweep, tmp_path, text_file):
    extra = tmp_path / "calibration.txt"
    extra.write_bytes(text_file.read_bytes())
    rows = list(sweep(["svd-llm"], [0.8], calibration=str(extra)).run())
    extra.unlink()
    again = sweep(["svd-llm"], [0.8], calibration=str(extra))
    assert list(again.run()) == []
    assert again.rows() == rows


def test_a_recipe_that_the_model_cannot_have_fails_in_its_rows_only(sweep, llama):
    def refuse(_, args):
        if args[0].shape[1] == OPTIONS["length"]:
            raise NotImplementedError("another length")

    llama.model.embed_tokens.register_forward_pre_hook(refuse)
    with pytest.warns(EckartWarning, match="svd-llm at 0.6 failed: .*fails on 24 tokens .*: another"):
        rows = list(sweep(["svd", "svd-llm"], [0.6]).run())
    assert [row.label for row in rows] == ["dense", "svd"]


@pytest.mark.parametrize("after", [1, 2])
def test_a_model_that_changes_on_disk_gives_no_more_rows(after, model_folder, text_file, tmp_path):
    """Weights stay in a map of the file, so that what is measured after a change is another model."""
    output = tmp_path / "sweep.sqlite"
    texts = {"texts": [str(text_file)], "calibration": str(text_file)}
    started = run(eckart.load_model(model_folder), ["svd"], keep=[0.8, 0.6], output=output, **texts, **OPTIONS)
    rows = [next(started) for _ in range(after)]
    file = model_folder / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-64:] = bytes(64)
    with file.open("r+b") as opened:  # in place, as `cp` does
        opened.write(data)
    with pytest.raises(CheckpointError, match=r"model\.safetensors was changed"):
        next(started)
    assert read_rows(output) == rows
    assert read_failures(output) == []


def test_patterns_are_those_of_compress(sweep, llama, tokenizer, text_file):
    """What some rows leave as it is, others compress; what all leave is not measured."""
    own = ["targets.*.down_proj.keep=0.8", "targets.*.o_proj.rank=3", "targets.*.0.mlp.*=leave"]
    labels = ["svd-llm", "+".join(["zs-svd", *own]), "+".join(["zs-svd", *own, "sharing=shared"])]
    labels.append("asvd+allocation.shares=[0.5,0.8]+targets.*.o_proj.rank=3")
    rows = list(sweep(labels, [0.6], ignore="*.k_proj").run())
    assert len(rows) == 5
    for row in rows[1:]:
        assert row.label.endswith("+targets.*.k_proj=leave")
        model = copy.deepcopy(llama)
        report = eckart.compress(
            model, row.recipe, row.keep, str(text_file), tokenizer=tokenizer, samples=4, length=24, seed=0
        )
        assert row.ranks == {layer.path: layer.rank for layer in report.layers}
        assert not [path for path in row.ranks if "k_proj" in path]


def test_a_pattern_that_names_nothing_is_refused_at_once(sweep, tmp_path):
    with pytest.raises(EckartError, match=r"did you mean '\*\.q_proj'"):
        sweep(["svd"], [0.6], only=["*.q_prj"])
    assert not (tmp_path / "sweep.sqlite").exists()


def test_linears_outside_of_blocks_that_a_recipe_names_are_measured(sweep, llama, tokenizer, text_file):
    """The others in the same sweep do not look for them."""
    named = "svd-llm+targets.lm_head.keep=0.5"
    rows = list(sweep(["svd-llm", named, "aa-svd-layer+targets.lm_head.rank=4"], [0.6]).run())
    assert ["lm_head" in row.ranks for row in rows] == [False, False, True, True]
    for row in rows[1:]:
        report = eckart.compress(
            copy.deepcopy(llama),
            row.recipe,
            row.keep,
            str(text_file),
            tokenizer=tokenizer,
            samples=4,
            length=24,
            seed=0,
        )
        assert row.ranks == {layer.path: layer.rank for layer in report.layers}


def test_linears_without_gradients_are_targets_of_recipes_that_take_none(sweep, llama, tokenizer, text_file):
    mlp = llama.model.layers[1].mlp
    mlp.__class__ = type("WithoutGradients", (type(mlp),), {"forward": torch.no_grad()(type(mlp).forward)})
    rows = list(sweep(["svd-llm", "zs-svd"], [0.6]).run())
    path = "model.layers.1.mlp.up_proj"
    assert [path in row.ranks for row in rows] == [False, True, False]


@pytest.mark.parametrize(
    ("recipes", "keep", "count"), [(["svd", "int8", "int4"], [0.8, 0.7], 2), (["svd"], [0.8, 0.7, 0.6], 3)]
)
def test_several_processes_take_some_rows_each(sweep, recipes, keep, count, monkeypatch):
    every = sweep(recipes, keep).missing()
    monkeypatch.setattr(processes, "size", lambda: count)
    found = []
    for number in range(count):
        monkeypatch.setattr(processes, "rank", lambda number=number: number)
        found.append(sweep(recipes, keep)._dealt())
    assert sorted(map(every.index, (case for own in found for case in own))) == list(range(len(every)))
    assert all(found)
    if len(recipes) >= count:  # all sizes of a recipe share what is measured for it
        assert len({case.label for own in found for case in own}) == sum(len({c.label for c in own}) for own in found)
