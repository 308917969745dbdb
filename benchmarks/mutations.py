"""Ways to damage a folder, or to make it hostile: each changes one thing, drawn by a seeded generator."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

SPARSE = 2**40  # bytes of a file that takes no room
Mutation = Callable[[Path, Path, random.Random], str]

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2.5, 2**31, 2**64, 10**400, 1e308, float("nan"), float("inf")),
    *("", "1", "[/nope]", "[bold]x", "<script>alert(1)</script>", "a\nb", "\x1b[2J", "\ud800", "日本語 🙂"),
    *("../../outside/victim.bin", "/dev/zero", "../outside/model.safetensors", ".", "a\0b", "cuda", "eckart", "auto"),
    *([], {}, [1], [[]], {"a": 1}, [None], {"": {}}, ["../outside/victim.bin"]),
)
CODE = """
from pathlib import Path
Path({marker!r}).write_text("ran")
from transformers import LlamaConfig, LlamaForCausalLM
class OwnConfig(LlamaConfig):
    model_type = "own"
class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
def generate(*args, **kwargs):
    pass
"""


def files_of(folder: Path, suffix: str = "") -> list[Path]:
    """Return the regular files in a folder and below, or the file itself, but for those of no real size."""
    found = [folder] if folder.is_file() else sorted(path for path in folder.rglob("*") if path.is_file())
    return [path for path in found if path.name.endswith(suffix) and path.stat().st_size < SPARSE]


def damage_bytes(folder: Path, outside: Path, chance: random.Random) -> str:
    """Cut a file, empty it, flip some bits, put something behind it, or fill it with noise."""
    path = chance.choice(files_of(folder))
    data = bytearray(path.read_bytes())
    kind = chance.choice(("cut", "empty", "flip", "append", "noise", "zeros"))
    if kind == "cut":
        data = data[: chance.randrange(len(data) + 1)]
    elif kind == "flip":
        for _ in range(chance.choice((1, 8, 64)) if data else 0):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    elif kind == "append":
        data += chance.randbytes(100)
    else:
        data = bytearray({"empty": b"", "noise": chance.randbytes(len(data)), "zeros": bytes(len(data))}[kind])
    path.write_bytes(data)
    return f"{kind} {path.name}"


def replace_file(folder: Path, outside: Path, chance: random.Random) -> str:
    """Put a pipe, a link, a folder, another file or nothing in the place of a file."""
    path = chance.choice(files_of(folder))
    kind = chance.choice(("pipe", "device", "outside", "nothing", "circle", "folder", "gone", "swap", "sparse"))
    if kind == "swap":
        other = chance.choice(files_of(folder))
        data = path.read_bytes()
        path.write_bytes(other.read_bytes())
        other.write_bytes(data)
        return f"swap {path.name} and {other.name}"
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "sparse":
        with path.open("wb") as file:
            file.truncate(SPARSE)
    elif kind != "gone":
        targets = {"device": Path("/dev/zero"), "outside": outside / "victim.bin", "circle": path}
        path.symlink_to(targets.get(kind, folder / "nowhere"))
    return f"{kind} for {path.name}"


def change_json(folder: Path, outside: Path, chance: random.Random) -> str:
    """Change, delete or add a value somewhere in a file of JSON."""
    found = files_of(folder, ".json")
    if not found:
        return "nothing"
    path = chance.choice(found)
    try:
        data = json.loads(path.read_text())
    except ValueError:
        return "nothing"
    places = list(_places(data))
    if not places:
        return "nothing"
    where, holder, key = chance.choice(places)
    kind = chance.choice(("value", "value", "value", "value", "deep", "delete", "more"))
    if kind == "delete":
        del holder[key]
    elif kind == "more" and isinstance(holder, dict):
        holder[chance.choice(("unknown", "[/nope]", "", "auto_map", "transformers_weights"))] = chance.choice(VALUES)
    else:
        holder[key] = "DEEP" if kind == "deep" else chance.choice(VALUES)
    levels = chance.choice((900, 100_000))
    text = json.dumps(data).replace('"DEEP"', "[" * levels + "]" * levels)
    path.write_text(text)
    return f"{kind} at {where} of {path.name}: {holder.get(key) if isinstance(holder, dict) else ''!r}"[:200]


def _places(data: Any, where: str = "") -> Any:
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in list(items):
        yield f"{where}.{key}", data, key
        yield from _places(value, f"{where}.{key}")


def change_tensors(folder: Path, outside: Path, chance: random.Random) -> str:
    """Give a tensor another name, dtype, shape or numbers, or take it out."""
    found = files_of(folder, ".safetensors")
    if not found:
        return "nothing"
    path = chance.choice(found)
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError):
        return "nothing"
    if not tensors:
        return "nothing"
    name = chance.choice(sorted(tensors))
    kind = chance.choice(("name", "dtype", "shape", "nan", "inf", "gone", "more"))
    tensor = tensors[name]
    if kind == "name":
        tensors[chance.choice(("x", "[/nope]", f"{name}.x", "../x"))] = tensors.pop(name)
    elif kind == "dtype":
        tensors[name] = tensor.to(
            chance.choice((torch.bool, torch.int8, torch.uint8, torch.int64, torch.float16, torch.float8_e4m3fn))
        )
    elif kind == "shape":
        tensors[name] = chance.choice((tensor.reshape(-1), tensor[:-1], tensor[None], tensor[:0])).contiguous()
    elif kind == "gone":
        del tensors[name]
    elif kind == "more":
        tensors["model.mtp.weight"] = torch.ones(4, 4)
    elif tensor.is_floating_point():
        tensors[name] = torch.full_like(tensor, float(kind))
    save_file(tensors, path, metadata={"format": "pt"})
    return f"{kind} of {name} in {path.name}"


def change_rows(folder: Path, outside: Path, chance: random.Random) -> str:
    """Change something in the database of a sweep."""
    statement = chance.choice(
        (
            *("UPDATE rows SET row = NULL", "UPDATE rows SET row = x'ff'", "UPDATE rows SET keep = 'x', row = '[]'"),
            *("DROP TABLE rows", "DROP TABLE sweep", "DELETE FROM rows", "PRAGMA user_version = 2"),
            'UPDATE rows SET row = replace(row, \'"bytes":\', \'"bytes":1e999,"x":\')',
            'UPDATE rows SET row = replace(row, \'"kept":\', \'"kept":"a","x":\')',
            'UPDATE rows SET row = replace(row, \'"label":"\', \'"label":"[/nope]<b>\')',
            'UPDATE rows SET row = replace(row, \'"windows":\', \'"windows":' + "9" * 400 + ',"x":\')',
        )
    )
    with closing(sqlite3.connect(folder)) as connection, suppress(sqlite3.Error), connection:
        connection.execute(statement)
    return statement[:80]


def name_outside(folder: Path, outside: Path, chance: random.Random) -> str:
    """Let an index, a config or a manifest name a file outside."""
    name = chance.choice(("../outside/model.safetensors", str(outside / "victim.bin"), "/dev/zero", "../../x", "\0"))
    kind = chance.choice(("index", "weights", "stream", "tokenizer"))
    if kind == "stream":
        for path in files_of(folder, "manifest.json"):
            data = json.loads(path.read_text())
            for stream in ("original", "compressed", "followed"):
                if isinstance(data.get(stream), dict):
                    data[stream]["file"] = name
            path.write_text(json.dumps(data))
    elif kind == "index":
        indices = files_of(folder, ".index.json") or [folder / "model.safetensors.index.json"]
        indices[0].write_text(json.dumps({"metadata": {}, "weight_map": {"lm_head.weight": name}}))
        (folder / "model.safetensors").unlink(missing_ok=True)
    else:
        key = "transformers_weights" if kind == "weights" else "fast_tokenizer_files"
        for path in files_of(folder, "tokenizer_config.json" if kind == "tokenizer" else "config.json"):
            data = json.loads(path.read_text())
            data[key] = [name] if kind == "tokenizer" else name
            if isinstance(data.get("quantization_config"), dict):
                data["quantization_config"]["weights"] = name
            path.write_text(json.dumps(data))
    return f"{kind} names {name!r}"


def bring_code(folder: Path, outside: Path, chance: random.Random) -> str:
    """Let the folder bring Python of its own, which leaves a mark if it is run."""
    for path in (folder / "own.py", folder / "custom_generate" / "generate.py"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(CODE.format(marker=str(outside / "marker")))
    kinds = chance.sample(("type", "class", "tokenizer", "both"), 2)
    for path in files_of(folder, "config.json"):
        data = json.loads(path.read_text())
        classes: dict[str, Any] = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"}
        classes["AutoTokenizer"] = ["own.OwnConfig", "own.OwnConfig"]
        if path.name == "tokenizer_config.json" and "tokenizer" in kinds:
            data |= {"auto_map": classes, "tokenizer_class": "OwnTokenizer"}
        elif path.name == "config.json":
            data["auto_map"] = classes
            if "type" in kinds or "both" in kinds:
                data["model_type"] = "own"
            if "class" in kinds or "both" in kinds:
                data["architectures"] = ["OwnForCausalLM"]
        path.write_text(json.dumps(data))
    return f"code for {' and '.join(kinds)}"


def rename(folder: Path, outside: Path, chance: random.Random) -> str:
    """Leave the contents, and note a name that the folder is to have; see :data:`NAMES`."""
    return "nothing but its name"


NAMES = ("[bold]x[_nope]", "<b>&amp;", "日本語 🙂", "a b'c\"d", "--help", "%s{0}", "`x`|y", "x" * 200, "-", "a\nb")
MUTATIONS: tuple[Mutation, ...] = (
    *(damage_bytes, damage_bytes, replace_file, replace_file, change_json, change_json, change_json, change_json),
    *(change_tensors, change_tensors, name_outside, bring_code, rename),
)

OF_FILES: dict[str, tuple[Mutation, ...]] = {
    ".json": (damage_bytes, change_json, change_json, change_json),
    ".sqlite": (damage_bytes, change_rows, change_rows),
}


def mutate(source: Path, folder: Path, outside: Path, chance: random.Random) -> tuple[Path, str]:
    """Copy a folder or a file, change it once or twice, and return the copy and what was done."""
    mutation = chance.choice(OF_FILES.get(source.suffix, MUTATIONS) if source.is_file() else MUTATIONS)
    target = folder / (chance.choice(NAMES) if mutation is rename else source.name)
    if source.is_file():
        shutil.copy(source, target)
    else:
        shutil.copytree(source, target)
    told = [mutation(target, outside, chance)]
    if chance.random() < 0.2 and files_of(target):
        told.append(damage_bytes(target, outside, chance))
    return target, "; ".join(filter(None, told))
