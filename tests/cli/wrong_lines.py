"""Command lines that cannot be carried out, and the workplace that they are typed in.

Words are split as a shell does it. Each line is refused with a message and exit code 2, and touches nothing.
"""

from __future__ import annotations

import json
from pathlib import Path

from tests.conftest import byte_tokenizer, make_model
from tests.evaluate.helpers import with_an_end, write_task

from eckart import compress, save

BOMB = "".join(
    f"{name}: &{name} [{', '.join([f'*{inner}'] * 9) if inner else 'x'}]\n"
    for inner, name in zip([None, *"abcdefgh"], "abcdefghi", strict=True)
)
FILES: dict[str, bytes] = {
    "text.txt": "\n".join(f"Line {i} says that {i} squared is {i * i}." for i in range(200)).encode(),
    "short.txt": b"too short",
    "empty.txt": b"",
    "blank.txt": b" \n\t\n",
    "latin.txt": "Größe".encode("latin-1"),
    "broken-utf-16.txt": b"\xff\xfea\x00b",
    "binary.bin": bytes(range(256)),
    "rows.jsonl": b'{"text": "a row", "number": 1}\n' * 50,
    "null.jsonl": b'{"text": null}\n' * 3,
    "chat.jsonl": json.dumps({"text": [{"role": "user", "content": "Hi"}]}).encode(),
    "broken.jsonl": b'{"text": "a"}\n{"text": ',
    "list.jsonl": b"[1, 2]\n",
    "half.jsonl": b'{"text": "half of a \\ud83d smile"}\n',
    "deep.jsonl": b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n",
    "digits.jsonl": b'{"text": ' + b"9" * 5_000 + b"}\n",
    "list.yaml": b"- objective\n",
    "broken.yaml": b"objective: [\n",
    "latin.yaml": "objective: Größe".encode("latin-1"),
    "unknown.yaml": b"objective: anchored\nobjektive: x\n",
    "without.yaml": b"name: x\n",
    "bomb.yaml": BOMB.encode(),
    "loop.yaml": b"objective: &a [*a]\n",
    "deep.yaml": b"objective: " + b"[" * 100_000,
    "half.yaml": b'objective: svd\nname: "\\ud83d"\n',
    "date.yaml": b"objective: input-aware\nname: 2026-99-99\n",
    "object.yaml": b"objective: !!python/object/apply:os.getcwd []\n",
    "digits.yaml": b"objective: input-aware\nversion: " + b"9" * 5_000,
    "infinite.yaml": b"objective: {name: input-aware, shrinkage: .inf}\n",
    "keys.yaml": b"objective: input-aware\n1: 2\n",
    "empty.yaml": b"",
    "notes.md": b"Mine.\n",
    "fake.gguf": b"no model",
    "sweep.sqlite": b"no database",
    "numbers.json": b"[1, 2, 3]",
}


def set_up(place: Path) -> None:
    """Write the files and folders that the lines name."""
    for name, data in FILES.items():
        (place / name).write_bytes(data)
    for name in ("empty", "corpus", "odd/[red]x"):
        (place / name).mkdir(parents=True)
    rows = [{"text": f"This is row {i} of them.", "chat": [{"role": "user"}], "number": i} for i in range(40)]
    (place / "corpus" / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    write_task(place / "tasks")
    tokenizer = with_an_end(byte_tokenizer())
    for name, kind in (("model", "llama"), ("learned", "gpt2")):
        make_model(kind).save_pretrained(place / name)
        tokenizer.save_pretrained(place / name)
    make_model("llama").save_pretrained(place / "no-tokenizer")
    model = make_model("llama")
    save(model, compress(model, "svd", 0.6), place / "small", tokenizer=tokenizer)


COMPRESS = """
compress
compress model
compress -o out
compress model -o
compress model other -o out
compress model -o out --no-such-option
compress model -o out --kep 0.5
compress model -o out --keep
compress model -o out --keep half
compress model -o out --keep ''
compress model -o out --keep 0
compress model -o out --keep -0.1
compress model -o out --keep 1.1
compress model -o out --keep 80
compress model -o out --keep nan
compress model -o out --keep inf
compress model -o out --keep 1e400
compress model -o out --keep 1e-9
compress model -o out --keep 0,8
compress model -o out --nested --recipe aa-svd
compress model -o out --nested
compress model -o out --goal
compress model -o out --goal fast
compress model -o out --goal ''
compress model -o out --goal speed --recipe svd
compress model -o out --set embedding=9-bit
compress model -o out --set embedding.group=0
compress model -o out --set embedding={name: 4-bit, scale_bits: 4}
compress model -o out --samples 0
compress model -o out --samples -1
compress model -o out --samples 1.5
compress model -o out --samples many
compress model -o out --samples nan
compress model -o out --samples 1000000000 --calibration text.txt --length 32
compress model -o out --samples 1000000000 --calibration self --length 2
compress model -o out --length 0
compress model -o out --length 1
compress model -o out --length -5
compress model -o out --length long
compress model -o out --length 129
compress model -o out --length 1000000000
compress learned -o out --length 129
compress model -o out --seed -1
compress model -o out --seed 1180591620717411303424
compress model -o out --seed 1.5
compress model -o out --seed random
compress model -o out --memory -1GB
compress model -o out --memory 0
compress model -o out --memory 0GB
compress model -o out --memory abc
compress model -o out --memory ''
compress model -o out --memory nanGB
compress model -o out --memory infGB
compress model -o out --memory 1e400GB
compress model -o out --memory 8XB
compress model -o out --memory GB
compress model -o out --memory 8GBB
compress model -o out --memory 0.1
compress model -o out --device gpu
compress model -o out --device ''
compress model -o out --device cpu:x
compress model -o out --device meta
compress model -o out --device '[/cpu]'
compress model -o out --recipe ''
compress model -o out --recipe svdllm
compress model -o out --recipe SVD-LLM
compress model -o out --recipe '[/svd]'
compress model -o out --recipe text.txt
compress model -o out --recipe nowhere.yaml
compress model -o out --recipe corpus.yaml
compress model -o out --recipe list.yaml
compress model -o out --recipe broken.yaml
compress model -o out --recipe latin.yaml
compress model -o out --recipe unknown.yaml
compress model -o out --recipe without.yaml
compress model -o out --recipe bomb.yaml
compress model -o out --recipe loop.yaml
compress model -o out --recipe deep.yaml
compress model -o out --recipe half.yaml
compress model -o out --recipe date.yaml
compress model -o out --recipe object.yaml
compress model -o out --recipe digits.yaml
compress model -o out --recipe infinite.yaml
compress model -o out --recipe keys.yaml
compress model -o out --recipe empty.yaml
compress model -o out --set
compress model -o out --set ''
compress model -o out --set objective
compress model -o out --set objective=
compress model -o out --set =anchored
compress model -o out --set objectiv=anchored
compress model -o out --set objective=anchord
compress model -o out --set objective=3
compress model -o out --set objective=null
compress model -o out --set objective=[
compress model -o out --set 'objective={name: anchored, shrinkag: 1}'
compress model -o out --set objective.name=nope
compress model -o out --set objective.name.x=1
compress model -o out --set keep=0.5
compress model -o out --set version=2
compress model -o out --set allocation=best
compress model -o out --set structure=three-factor
compress model -o out --set precision=7-bit
compress model -o out --set refinement=blok
compress model -o out --set sharing=all
compress model -o out --set distillation=yes
compress model -o out --recipe svd-llm --set objective.shrinkage=-1
compress model -o out --recipe svd-llm --set objective.shrinkage=lots
compress model -o out --recipe svd-llm --set objective.shrinkage=.nan
compress model -o out --recipe svd-llm --set objective.shrinkage=.inf
compress model -o out --recipe svd-llm --set allocation.multiple=0
compress model -o out --recipe svd-llm --set allocation.multiple=-8
compress model -o out --recipe svd-llm --set allocation.multiple=1.5
compress model -o out --recipe svd-llm --set allocation.multiple=1180591620717411303424
compress model -o out --recipe svd-llm --set allocation.multiple=[8]
compress model -o out --recipe svd-llm --set 'allocation=!!python/object:os.system'
compress model -o out --recipe svd-llm --set 'objective=&a [*a]'
compress model -o out --recipe aa-svd --set refinement.epochs=0
compress model -o out --recipe aa-svd --set refinement.learning_rate=.inf
compress model -o out --recipe saes-svd --set refinement.epochs=1
compress model -o out --recipe asvd --set structure=hybrid
compress model -o out --calibration ''
compress model -o out --calibration ' + '
compress model -o out --calibration nowhere.txt
compress model -o out --calibration nowhere.txt:raw
compress model -o out --calibration '[/nowhere].txt'
compress model -o out --calibration 'text.txt + nowhere.txt'
compress model -o out --calibration 'text.txt + text.txt' --samples 1
compress model -o out --calibration corpus
compress model -o out --calibration empty.txt
compress model -o out --calibration blank.txt
compress model -o out --calibration empty.txt:raw
compress model -o out --calibration short.txt
compress model -o out --calibration latin.txt
compress model -o out --calibration broken-utf-16.txt
compress model -o out --calibration binary.bin
compress model -o out --calibration text.txt:nofield
compress model -o out --calibration text.txt:row
compress model -o out --calibration rows.jsonl:nofield
compress model -o out --calibration rows.jsonl:number
compress model -o out --calibration null.jsonl
compress model -o out --calibration chat.jsonl
compress model -o out --calibration broken.jsonl
compress model -o out --calibration list.jsonl
compress model -o out --calibration half.jsonl
compress model -o out --calibration deep.jsonl
compress model -o out --calibration digits.jsonl
compress model -o out --calibration numbers.json
compress model -o out --calibration python-doc
compress model -o out --calibration python-docs:held
compress model -o out --calibration selv
compress model -o out --calibration dataset:
compress model -o out --calibration dataset:corpus
compress model -o out --calibration dataset:corpus:
compress model -o out --calibration dataset::train
compress model -o out --calibration dataset:corpus:train:text:config:more
compress model -o out --calibration dataset:corpus:train:nofield
compress model -o out --calibration dataset:corpus:train:number
compress model -o out --calibration dataset:corpus:train:chat
compress model -o out --calibration dataset:corpus:validation
compress model -o out --calibration dataset:empty:train
compress no-tokenizer -o out
compress nowhere -o out
compress nowhere/no-model -o out
compress '' -o out
compress empty -o out
compress corpus -o out
compress text.txt -o out
compress fake.gguf -o out
compress nowhere.gguf -o out
compress '[/x]' -o out
compress small -o out
"""

EVAL = """
eval
eval model
eval model --text
eval model --text text.txt --unknown
eval model --text text.txt more
eval model --text nowhere.txt
eval model --text ''
eval model --text corpus
eval model --text empty.txt
eval model --text short.txt --length 64
eval model --text latin.txt
eval model --text text.txt:nofield
eval model --text rows.jsonl:nofield
eval model --text chat.jsonl
eval model --text half.jsonl
eval model --text deep.jsonl
eval model --text dataset:corpus:train:chat
eval model --text text.txt --length 0
eval model --text text.txt --length 1
eval model --text text.txt --length -8
eval model --text text.txt --length long
eval model --text text.txt --length 129
eval learned --text text.txt --length 129
eval model --text text.txt --length 1000000000
eval model --text text.txt --windows 0
eval model --text text.txt --windows -1
eval model --text text.txt --windows all
eval model --text text.txt --device tpu0
eval model --text text.txt --baseline nowhere
eval model --text text.txt --baseline ''
eval model --text text.txt --baseline text.txt
eval model --text text.txt --limit 3
eval model --text text.txt --few-shot 3
eval model --text text.txt --task-path tasks
eval model --tasks ''
eval model --tasks ,
eval model --tasks colours --limit 0
eval model --tasks colours --limit -1
eval model --tasks colours --limit some
eval model --tasks colours --few-shot -1
eval model --tasks colours --batch-size 0
eval model --tasks colours --batch-size 2.5
eval model --tasks colour --task-path tasks
eval model --tasks '[/x]' --task-path tasks
eval model --tasks colours --task-path nowhere
eval model --tasks colours --task-path text.txt
eval model --tasks colours --task-path empty
eval model --prompt ''
eval no-tokenizer --text text.txt
eval nowhere --text text.txt
eval empty --text text.txt
eval text.txt --text text.txt
eval fake.gguf --text text.txt
eval nowhere/no-model --text text.txt
"""

OTHERS = """
bench
bench nowhere
bench model nowhere
bench ''
bench empty
bench text.txt
bench fake.gguf
bench model --batch 0
bench model --batch -1
bench model --batch ''
bench model --batch 1,,2
bench model --batch 1.5
bench model --batch 1,two
bench model --batch 1000000000000 --prompt 8 --generate 2
bench model --prompt 0
bench model --prompt -1
bench model --prompt 1000000000
bench model --prompt short
bench model --generate 1
bench model --generate 0
bench model --generate 1000000000
bench model --repeats 0
bench model --repeats -3
bench model --dtype int3
bench model --dtype ''
bench model --device gpu
bench model --json --yaml
sweep
sweep model -o new.sqlite --recipes svd
sweep model -o new.sqlite --text text.txt
sweep model --recipes svd --text text.txt
sweep model -o new.sqlite --recipes '' --text text.txt
sweep model -o new.sqlite --recipes svd, --text text.txt
sweep model -o new.sqlite --recipes svdd --text text.txt
sweep model -o new.sqlite --recipes svd,svd --text text.txt
sweep model -o new.sqlite --recipes dense --text text.txt
sweep model -o new.sqlite --recipes svd+structur=pivoted --text text.txt
sweep model -o new.sqlite --recipes svd+structure=pivot --text text.txt
sweep model -o new.sqlite --recipes bomb.yaml --text text.txt
sweep model -o new.sqlite --recipes svd --text nowhere.txt
sweep model -o new.sqlite --recipes svd --text text.txt --text text.txt
sweep model -o new.sqlite --recipes svd --text chat.jsonl
sweep model -o new.sqlite --recipes svd --text short.txt
sweep model -o new.sqlite --recipes svd --text text.txt --keep ''
sweep model -o new.sqlite --recipes svd --text text.txt --keep 0
sweep model -o new.sqlite --recipes svd --text text.txt --keep 0.9,1.1
sweep model -o new.sqlite --recipes svd --text text.txt --keep nan
sweep model -o new.sqlite --recipes svd --text text.txt --keep inf
sweep model -o new.sqlite --recipes svd --text text.txt --keep 0.9,0.9
sweep model -o new.sqlite --recipes svd --text text.txt --keep 0.9,much
sweep model -o new.sqlite --recipes svd-llm --text text.txt --samples 0
sweep model -o new.sqlite --recipes svd-llm --text text.txt --samples 1e3
sweep model -o new.sqlite --recipes svd-llm --text text.txt --samples 4,4
sweep model -o new.sqlite --recipes svd-llm --text text.txt --samples 1000000000
sweep model -o new.sqlite --recipes svd-llm --text text.txt --calibration nowhere.txt
sweep model -o new.sqlite --recipes svd-llm --text text.txt --calibration short.txt
sweep model -o new.sqlite --recipes svd-llm --text text.txt --calibration chat.jsonl
sweep model -o new.sqlite --recipes svd-llm --text text.txt --length 1
sweep model -o new.sqlite --recipes svd-llm --text text.txt --length 129
sweep model -o new.sqlite --recipes svd-llm --text text.txt --seed -1
sweep model -o new.sqlite --recipes svd-llm --text text.txt --seed 1180591620717411303424
sweep model -o new.sqlite --recipes svd --text text.txt --windows 0
sweep model -o new.sqlite --recipes svd --text text.txt --window-length 1
sweep model -o new.sqlite --recipes svd --text text.txt --window-length 129
sweep model -o new.sqlite --recipes svd --text text.txt --memory -1GB
sweep model -o new.sqlite --recipes svd --text text.txt --memory nanGB
sweep model -o new.sqlite --recipes svd --text text.txt --target-ppl nan
sweep model -o new.sqlite --recipes svd --text text.txt --target-ppl 0
sweep model -o new.sqlite --recipes svd --text text.txt --target-ppl inf
sweep model -o new.sqlite --recipes svd --text text.txt --target-bytes 0
sweep model -o new.sqlite --recipes svd --text text.txt --target-bytes -200MB
sweep model -o new.sqlite --recipes svd --text text.txt --target-bytes 1MB --target-ppl 9
sweep model -o new.sqlite --recipes svd --text text.txt --device gpu
sweep no-tokenizer -o new.sqlite --recipes svd --text text.txt
sweep small -o new.sqlite --recipes svd --text text.txt
sweep nowhere -o new.sqlite --recipes svd --text text.txt
sweep text.txt -o new.sqlite --recipes svd --text text.txt
inspect
inspect nowhere
inspect text.txt
inspect empty
inspect model
inspect ''
inspect odd/[red]x
inspect small other
inspect small --json --map
inspect small --sizes
inspect small --sizes --map
inspect small --sizes --cache
inspect nowhere --sizes
inspect small --map-image map.jpg
inspect small --map-image ''
inspect small --map-image
inspect small --xml
report
report nowhere
report text.txt
report empty
report model
report sweep.sqlite
report numbers.json
report small --titel x
report --title x
merge
merge small
merge model -o out
merge nowhere -o out
merge empty -o out
merge text.txt -o out
merge small -o out --overwrit
resize
resize small
resize small -o out
resize small --keep 0.3
resize small -o out --keep 0.3
resize small -o out --keep 0
resize small -o out --keep nan
resize small -o out --keep half
resize small -o small --keep 0.3
resize model -o out --keep 0.3
resize nowhere -o out --keep 0.3
resize text.txt -o out --keep 0.3
resize empty -o out --keep 0.3
recipes svdllm
recipes ''
recipes [/x]
recipes svd more
recipes nowhere.yaml
recipes bomb.yaml
recipes deep.yaml
recipes half.yaml
recipes object.yaml
recipes svd --keep 0
recipes svd --keep 2
recipes svd --keep nan
recipes --keep 1e400
recipes --keep some
recipes --json
demo more
demo -o
demo --out demo
nothing
compres model -o out
--version
--unknown
"""

# What no file can be called, halves of characters, and what moves the cursor of a terminal.
ODD = [
    f"{command} {name}"
    for name in ("x" * 5_000, "\udcff", "'\x1b[2J'", ":smile:.txt", "'[/bold]'")
    for command in ("compress -o out", "compress model -o out --calibration", "eval model --text", "inspect", "report")
]
ODD += [f"recipes {name}" for name in ("x" * 5_000 + ".yaml", "\udcff.yaml", "'\x1b[2J'", ":smile:.yaml")]

LINES = ODD + [line for table in (COMPRESS, EVAL, OTHERS) for line in table.splitlines() if line]
