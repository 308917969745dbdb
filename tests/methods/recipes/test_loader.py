from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from eckart.errors import RecipeError
from eckart.methods.objectives import Anchored, Blended, InputAware
from eckart.methods.precision import Bits4, Bits8, Bits16
from eckart.methods.recipe import Recipe
from eckart.methods.recipes.loader import load_recipe
from eckart.methods.recipes.published import DEFAULT_RECIPE, RECIPES
from eckart.methods.structure import Hybrid, Remapped


def test_recipes_are_found_by_their_names() -> None:
    assert all(load_recipe(name) is recipe and recipe.name == name for name, recipe in RECIPES.items())
    assert DEFAULT_RECIPE in RECIPES


@pytest.mark.parametrize("name", RECIPES)
def test_round_trip_through_yaml_and_json(name: str, tmp_path: Path) -> None:
    recipe = RECIPES[name]
    path = tmp_path / "mine.yaml"
    path.write_text(recipe.to_yaml())
    assert load_recipe(path) == recipe
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_published_recipes_do_not_shrink() -> None:
    for name, recipe in RECIPES.items():
        # KFAC-SVD does, and calls it damping.
        assert getattr(recipe.objective, "shrinkage", 0.0) == 0.0 or name.startswith("kfac-svd")


def test_the_refinement_of_the_paper_is_the_default() -> None:
    refinement = RECIPES["aa-svd"].refinement
    assert RECIPES["aa-svd"].objective == InputAware()
    assert RECIPES["aa-svd-anchored"].refinement == refinement
    published = {
        "epochs": 25,
        "batch": 32,
        "learning_rate": 1e-4,
        "betas": (0.9, 0.999),
        "weight_decay": 0.01,
        "warmup": 0.1,
        "final_learning_rate": 0.1,
        "gradient_norm": 1.0,
    }
    assert refinement.model_dump(include=set(published)) == published
    assert not RECIPES["svd"].needs_data
    assert load_recipe("svd", ["refinement=block"]).needs_data


def test_a_choice_by_its_name_alone(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("objective: anchored\n")
    recipe = load_recipe(path)
    assert recipe.objective == Anchored()
    assert recipe.name == "mine"


def test_overrides() -> None:
    assert load_recipe("svd-llm", ["objective=anchored"]).objective == Anchored()
    assert load_recipe("svd-llm", ["objective.shrinkage=0.03"]).objective == InputAware(shrinkage=0.03)
    assert load_recipe("svd-llm", ["objective={name: blended, beta_min: 0.5}"]).objective == Blended(beta_min=0.5)
    assert load_recipe("svd-llm", ["objective=anchored"]).name == "svd-llm (objective=anchored)"


@pytest.mark.parametrize(
    ("source", "overrides", "message"),
    [
        ("svd-lm", [], r"No recipe is called 'svd-lm'; did you mean 'svd-llm'"),
        ("nowhere.yaml", [], r"cannot be read"),
        ("svd-llm", ["objective=anchord"], r"Unknown objective 'anchord' .*did you mean 'anchored'"),
        ("svd-llm", ["objectiv=anchored"], r"no field 'objectiv'; did you mean 'objective'"),
        ("svd-llm", ["objective.shrink=1"], r"no field 'objective.shrink'; did you mean 'objective.shrinkage'"),
        ("svd-llm", ["objective.shrinkage.x=1"], r"no field 'objective.shrinkage.x'"),
        ("svd-llm", ["objective.shrinkage=-1"], r"greater than or equal to 0, found -1"),
        ("svd-llm", ["objective.shrinkage=lots"], r"valid number.*found 'lots'"),
        ("svd-llm", ["objective"], r"takes key=value"),
        (
            "asvd",
            ["allocation.shares=[0.4"],
            r"The value of 'allocation.shares' cannot be read as YAML.*line 1, column 5",
        ),
        ("svd-llm", ["objective={name: anchored, shrinkag: 1}"], r"did you mean 'shrinkage'"),
        ("saes-svd", ["objective.beta_min=0.9"], r"beta_min \(0.9\) is above beta_max \(0.75\)"),
        ("svd-llm", ["allocation=even"], r"Unknown allocation 'even'.*uniform"),
    ],
)
def test_mistakes_are_named_with_the_nearest_choice(source: str, overrides: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(source, overrides)


def test_structures_have_fields() -> None:
    assert load_recipe("eora").structure == Hybrid(alternations=0)
    assert load_recipe("eora", ["structure.base=8-bit", "structure.alternations=3"]).structure == Hybrid(
        base=Bits8(), alternations=3
    )
    coarse = load_recipe("svd", ["structure=hybrid", "structure.base.group=64"]).structure
    assert coarse == Hybrid(base=Bits4(group=64))
    for name, plain in (("aa-svd-remap", "aa-svd"), ("zs-svd-remap", "zs-svd")):
        changed = {"name": name, "reference": RECIPES[name].reference, "structure": Remapped(feedback=False)}
        assert RECIPES[name] == RECIPES[plain].model_copy(update=changed)


@pytest.mark.parametrize(
    ("source", "overrides", "message"),
    [
        ("svd", ["structure=remapped", "precision=8-bit"], r"'remapped' says itself in how.*found precision '8-bit'"),
        ("zs-svd-hq", ["structure=remapped"], r"'remapped' says itself in how.*Use precision=16-bit"),
        ("asvd", ["structure=hybrid"], r"Allocation 'search' runs the model.*such as uniform or curvature"),
        ("dobi-svd", ["structure=hybrid", "allocation=uniform"], r"Objective 'principal-outputs' gives a projection"),
        ("svd-llm", ["structure=hybrid", "allocation=learned"], r"Allocation 'learned'"),
        ("zs-svd-staged", ["structure=hybrid"], r"Allocation 'zero-sum' in stages"),
        (
            "eora",
            ["structure.base=16-bit"],
            r"Unknown base '16-bit'.*Choices: 2-bit, 2-of-4, 3-bit, 4-bit",
        ),
        ("eora", ["structure.alternations=-1"], r"greater than or equal to 0, found -1"),
        ("eora", ["structure.base.grup=1"], r"no field 'structure.base.grup'"),
    ],
)
def test_choices_that_do_not_go_together(source: str, overrides: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(source, overrides)


def test_choices_need_to_go_together_only_at_the_end() -> None:
    recipe = load_recipe("zs-svd-hq", ["structure=remapped", "precision=16-bit"])
    assert (recipe.structure, recipe.precision) == (Remapped(), Bits16())
    with pytest.raises(RecipeError, match="says itself"):
        Recipe(objective=InputAware(), structure=Remapped(), precision=Bits8())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("objective: anchored\nobjektive: x\n", r"Unknown recipe field 'objektive' .*did you mean 'objective'"),
        ("name: x\n", "lacks the field 'objective'"),
        ("- a\n", "holds list"),
        ("a: [\n", "cannot be read as YAML.*line 2, column 1"),
        ("objective: anchored\nversion: 2\n", "'version'.*found 2"),
    ],
)
def test_mistakes_in_a_file(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=message):
        load_recipe(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_file_of_any_editor(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("objective: anchored\nreference: Größe\n", encoding=encoding)
    assert load_recipe(path).reference == "Größe"


@pytest.mark.parametrize("name", ["x" * 5_000 + ".yaml", "a\0b.yaml", ".", ".yaml"])
def test_what_no_file_can_be_called(name: str) -> None:
    with pytest.raises(RecipeError, match=r"cannot be read|No recipe is called"):
        load_recipe(name)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="has no such devices")
def test_a_device_is_no_recipe(tmp_path: Path) -> None:
    (tmp_path / "endless.yaml").symlink_to("/dev/zero")
    with pytest.raises(RecipeError, match="there is no such file"):
        load_recipe(tmp_path / "endless.yaml")


@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf"])
def test_numbers_are_finite(value: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"'objective.shrinkage'.*finite number"):
        load_recipe("svd-llm", [f"objective.shrinkage={value}"])
    with pytest.raises(RecipeError, match=r"'refinement.block.learning_rate'.*finite number"):
        load_recipe("aa-svd", [f"refinement.learning_rate={value}"])


def test_what_is_wrong_is_shown_in_short(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("objective: anchored\nname: [" + "x, " * 5_000 + "]\n" + "".join(f"f{n}: 1\n" for n in range(900)))
    with pytest.raises(RecipeError, match=r"And \d+ more\.") as raised:
        load_recipe(path)
    assert len(str(raised.value)) < 2_000


def test_targets_are_read_from_files_and_overrides(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "objective: weight\ntargets:\n  '*.down_proj': {keep: 0.9}\n  model.layers.0.*: leave\n  lm_head: {keep: .8}\n"
        "  '*.q_proj': {rank: 64}\ntowers: {vision: 0.9, audio: leave}\n"
    )
    overrides = ["targets.*.down_proj.keep=0.9", "targets.model.layers.0.*=leave", 'targets."lm_head".keep=0.8']
    overrides += ["targets.*.q_proj={rank: 64}", "towers.vision=0.9", "towers.audio=leave"]
    written, told = load_recipe(path), load_recipe("svd", overrides)
    assert written.targets == told.targets
    assert written.towers == told.towers
    assert [target.size for target in written.targets] == [{"keep": 0.9}, "leave", {"keep": 0.8}, {"rank": 64}]
    assert told.name.endswith("towers.audio=leave)")


def test_targets_keep_their_order_where_keys_are_sorted(tmp_path: Path) -> None:
    recipe = load_recipe("svd", ["targets.b=leave", "targets.a=take", "targets.b.keep=0.5", "towers.z=0.5"])
    path = tmp_path / "mine.yaml"
    path.write_text(recipe.to_yaml())
    assert load_recipe(path) == recipe
    text = json.dumps(recipe.model_dump(mode="json"), sort_keys=True)
    assert Recipe.model_validate_json(text) == recipe
    assert hash(Recipe.model_validate_json(text)) == hash(recipe)
    assert recipe != load_recipe("svd", ["targets.a=take", "targets.b=leave", "targets.b.keep=0.5", "towers.z=0.5"])


def test_recipes_without_targets_are_written_as_before() -> None:
    assert {"targets", "towers"}.isdisjoint(RECIPES["svd"].model_dump())
    assert load_recipe("svd", ["targets=[]"]).targets == ()


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("targets.x=5", r"Recipe field 'targets' after --set: 'x' takes leave, take, .* and not 5"),
        ("targets.x.keep=2", r"'x' takes leave, take, \{keep: 0.9\} or \{rank: 64\}, and not \{'keep': 2\}"),
        ("targets=3", r"'targets' after --set: it takes names and sizes, such as .*, found 3"),
        ("towers.vision=0", r"Recipe field 'towers' after --set: 'vision' takes leave, or a share"),
        ("targets.=leave", r"no field 'targets\.'; did you mean 'targets'"),
        ("tragets.x=leave", r"no field 'tragets\.x'; did you mean 'targets'\?"),
    ],
)
def test_targets_that_cannot_be_are_refused(override: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        load_recipe("svd", [override])


@pytest.mark.parametrize(
    ("recipe", "override", "found"),
    [
        ("int4", "precision.scale_bits=8", lambda recipe: recipe.precision.scale_bits),
        ("int4", "precision.descent=8", lambda recipe: recipe.precision.descent),
        ("int4", "precision.output_feedback=true", lambda recipe: 8 * recipe.precision.output_feedback),
        ("eora", "structure.base.scale_bits=8", lambda recipe: recipe.structure.base.scale_bits),
        ("svd", "solver.name=exact", lambda recipe: 8 * (recipe.solver.name == "exact")),
    ],
)
def test_what_files_leave_out_can_be_set(recipe: str, override: str, found: Callable[[Recipe], int]) -> None:
    assert found(load_recipe(recipe, [override])) == 8


def test_a_field_of_the_embedding_can_be_set_once_its_precision_is() -> None:
    recipe = load_recipe("svd", ["embedding=4-bit", "embedding.scale_bits=8", "embedding.group=64"])
    assert recipe.embedding == Bits4(group=64, scale_bits=8)
    assert "embedding" in recipe.model_dump()
    assert "embedding" not in load_recipe("svd").model_dump()
