from __future__ import annotations

import pytest
import train_small
import typer
from small_models import mixture
from small_models.training import Schedule


def test_a_model_by_its_name(text_file, tmp_path, monkeypatch, capsys):
    text_file.write_text("\n\n".join(f"Paragraph {number}: {'word ' * 300}" for number in range(120)))
    tiny = mixture.Settings(Schedule(steps=2, batch=2, rate=1e-3), 16, 300, 32, 2, 4, 2, 32, 4)
    monkeypatch.setattr(mixture, "QUICK", tiny)
    train_small.main("mixture", quick=True, text=f"{text_file}:raw", cache=tmp_path / "cache")
    folder, parameters, _, *rows = capsys.readouterr().out.splitlines()
    assert folder.startswith(str(tmp_path / "cache" / "mixture-"))
    assert parameters == "0.05 million parameters"
    assert rows[:2] == ["| | validation | test |", "|---|---|---|"]
    assert [row.split(" | ")[0] for row in rows[2:]] == ["| perplexity", "| log_perplexity", "| entropy", "| least"]


@pytest.mark.parametrize(("name", "text"), [("nothing", None), ("encoder", "text.txt")])
def test_names_and_texts_that_do_not_go(name, text):
    with pytest.raises(typer.BadParameter, match=r"found 'nothing'|encoder is not"):
        train_small.main(name, text=text)


def test_the_table():
    facts = {"test": {"digit": 0.9512, "mean": 0.5}, "blind guess": {"digit": 0.1, "mean": 0.25}}
    assert train_small.table(facts).splitlines() == [
        "| | test | blind guess |",
        "|---|---|---|",
        "| digit | 0.951 | 0.100 |",
        "| mean | 0.500 | 0.250 |",
    ]
