"""Folders and files that a stranger may send: what is done, and which command meets it."""

import hashlib
import io
import json
import os
import shutil
import socket
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save, save_file

from ppl_vae.training import checkpoint

Damage = Callable[[Path], None]
"""What is done in a folder with `run`, a trained and evaluated one, and `x.npy`, its data."""

SAMPLE = ("sample", "run", "--n", "2", "--out", "drawn.npy")
DRAW = ("sample", "run", "--n", "2")
REPORT = ("report", "run", "--out", "page.html")
RESUME = ("fit", "--resume", "run", "--epochs", "2")
EVALUATE = ("evaluate", "run", "--quick", "--metrics", "usage")


def new(name: str, *more: str) -> tuple[str, ...]:
    """The command that reads new rows."""
    return ("encode", "run", "--data", name, "--out", "codes.npy", *more)


def shown(kind: str, name: str, *more: str) -> tuple[str, ...]:
    """The command that reads a data set."""
    return ("show", "--data", kind, "--data.path", name, *more)


def cases() -> Iterator[tuple[str, Damage, tuple[str, ...]]]:
    """All of them: a name, the damage, and the words of the command that must refuse it."""
    yield from _links()
    yield from _kinds()
    yield from _configs()
    yield from _known()
    yield from _logs()
    yield from _weights()
    yield from _checkpoints()
    yield from _summaries()
    yield from _drawings()
    yield from _arrays()
    yield from _tables()
    yield from _images()
    yield from _settings()


def write(name: str, content: str | bytes) -> Damage:
    """Puts something else into a file."""

    def damage(root: Path) -> None:
        path = root / name
        path.unlink(missing_ok=True)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    return damage


def _links() -> Iterator[tuple[str, Damage, tuple[str, ...]]]:
    def link(name: str, target: str, root: Path) -> None:
        path = root / "run" / name
        if path.exists():
            path.rename(root / "target")
        path.symlink_to(root / target)

    every = (
        "config.yaml metrics.jsonl weights.safetensors data.json summary.json khat.svg sbc.svg "
        "coverage.svg samples.png latent.png curves.png reconstructions.png"
    )
    for name in every.split():
        for command in (SAMPLE, EVALUATE, REPORT):
            yield f"link at {name}, {command[0]}", partial(link, name, "target"), command
    yield "link to nothing", partial(link, "summary.json", "nothing"), EVALUATE
    yield "link of a folder", partial(link, "tensorboard", "elsewhere"), EVALUATE
    yield "picture to write is a link", partial(link, "samples.png", "victim"), DRAW
    words = ("sample", "run", "--n", "2", "--out", "here.npy")
    yield "result is a link", lambda root: (root / "here.npy").symlink_to(root / "victim"), words
    words = ("report", "run", "--out", "here.html")
    yield "page is a link", lambda root: (root / "here.html").symlink_to(root / "victim"), words


def _kinds() -> Iterator[tuple[str, Damage, tuple[str, ...]]]:
    def put(make: Callable[[Path], object], name: str, root: Path) -> None:
        (root / name).unlink(missing_ok=True)
        make(root / name)

    def listen(path: Path) -> None:
        before = Path.cwd()
        os.chdir(path.parent)  # such a name has at most 107 bytes
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
        os.chdir(before)

    kinds: dict[str, Callable[[Path], object]] = {
        "pipe": os.mkfifo,
        "socket": listen,
        "folder": Path.mkdir,
    }
    for kind, make in kinds.items():
        for name, words in (
            ("run/config.yaml", SAMPLE),
            ("run/metrics.jsonl", REPORT),
            ("run/weights.safetensors", SAMPLE),
            ("run/data.json", SAMPLE),
            ("run/summary.json", REPORT),
            ("run/khat.svg", REPORT),
            ("run/samples.png", DRAW),
            ("new.npy", new("new.npy")),
            ("new.csv", new("new.csv")),
            ("more.yaml", ("show", "--config", "more.yaml")),
        ):
            if kind != "folder" or not name.startswith("new"):
                yield f"{kind} at {name}", partial(put, make, name), words


def _configs() -> Iterator[tuple[str, Damage, tuple[str, ...]]]:
    levels = [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]" for k in range(1, 9)]
    merges = [f"b{k}: &b{k} {{<<: [{', '.join([f'*b{k - 1}'] * 9)}]}}" for k in range(1, 9)]
    texts: dict[str, str | bytes] = {
        "laughs": "\n".join(["a0: &a0 [x]", *levels]),
        "merges": "\n".join(["b0: &b0 {x: 1}", *merges]),
        "within itself": "data: &a [*a]",
        "mapping within itself": "data: &a {b: *a}",
        "deep list": "data: " + "[" * 20_000,
        "deep whole list": "data: " + "[" * 900 + "]" * 900,
        "deep mapping": "data: " + "{a: " * 9_000,
        "deep block": "\n".join(" " * k + "a:" for k in range(300)),
        "large": "a: " + "x" * 2**17,
        "many values": "a: [" + "1," * 2**14 + "]",
        "many keys": "\n".join(f"k{k}: 1" for k in range(12_000)),
        "object": "data: !!python/object/apply:os.system ['touch victim']",
        "module": "data: !!python/name:os.system",
        "no UTF-8": b"data: \xff\xfe",
        "UTF-16": "data: Digits".encode("utf-16"),
        "null character": "data: \0",
        "half": "data: {class_path: ppl_vae.data.Arr",
        "list": "- a",
        "text": "digits",
        "empty": "",
        "keys of numbers": "1: 2\ndata: {}",
        "keys of nothing": "null: 2\ndata: {}",
        "keys of lists": "? [a]\n: 2\ndata: {}",
        "twice": "data: {}\ndata: {}",
        "date": "data: 2001-01-01",
        "no date": "data: 2001-99-99",
        "binary": "data: !!binary aGk=",
        "set": "data: !!set {a}",
        "whole number": "seed: " + "9" * 5000,
        "whole number of 4000 digits": "seed: " + "9" * 4000,
        "no data": "seed: 0",
        "data of nothing": "data: null",
        "data of numbers": "data: 3",
        "data without a class": "data: {path: x.npy}",
        "data of another kind": "data: {class_path: ppl_vae.objectives.BetaVAE}",
        "class from elsewhere": "data: {class_path: os.system}",
        "unknown setting": "data: {class_path: ppl_vae.data.Digits, init_args: {nothing: 1}}",
    }
    for name, text in texts.items():
        yield f"config: {name}", write("run/config.yaml", text), SAMPLE
        if name not in ("empty", "no data") and "data" not in name:
            yield f"settings: {name}", write("more.yaml", text), ("show", "--config", "more.yaml")

    def settings(change: Callable[[dict[str, Any]], None], root: Path) -> None:
        import yaml

        path = root / "run/config.yaml"
        config = yaml.safe_load(path.read_text())
        change(config)
        path.write_text(yaml.safe_dump(config))

    changes: dict[str, Callable[[dict[str, Any]], None]] = {
        "huge code": lambda c: c.update(dim=10**9),
        "too huge a code": lambda c: c.update(dim=10**17),
        "no code": lambda c: c.update(dim=-1),
        "text for a number": lambda c: c.update(dim="two"),
        "another code": lambda c: c.update(dim=3),
        "large body": lambda c: c["encoder"]["init_args"].update(
            body={"class_path": "ppl_vae.bodies.MLP", "init_args": {"hidden": [20_000, 20_000]}}
        ),
        "huge body": lambda c: c["encoder"]["init_args"].update(
            body={"class_path": "ppl_vae.bodies.MLP", "init_args": {"hidden": [10**15]}}
        ),
        "foreign encoder": lambda c: c.update(encoder={"class_path": "subprocess.Popen"}),
    }
    for name, change in changes.items():
        yield f"config: {name}", partial(settings, change), SAMPLE


def _changed(name: str, change: Callable[[Any], Any], root: Path) -> None:
    found = json.loads((root / name).read_text())
    change(found)
    (root / name).write_text(json.dumps(found))


def _known() -> Iterator[tuple[str, Damage, tuple[str, ...]]]:
    texts: dict[str, str | bytes] = {
        "half": '{"sizes": [[4',
        "empty": "",
        "deep": '{"sizes": ' + "[" * 100_000,
        "deep whole": '{"more": ' + "[" * 50_000 + "]" * 50_000 + "}",
        "list": "[]",
        "number": "3",
        "no UTF-8": b'{"name": "\xff"}',
        "whole number": '{"sizes": [[' + "9" * 10_000 + "]]}",
        "large": '{"a": "' + "x" * 2**25 + '"}',
        "nothing": "{}",
    }
    for name, text in texts.items():
        yield f"data.json: {name}", write("run/data.json", text), SAMPLE
    values: dict[str, tuple[str, object]] = {
        "43 TiB": ("sizes", [[4, 10**13]]),
        "other rows": ("sizes", [[5]]),
        "no rows": ("sizes", []),
        "negative rows": ("sizes", [[-4]]),
        "rows of text": ("sizes", [["4"]]),
        "types of functions": ("types", ["load"]),
        "types of text": ("types", "float32"),
        "more types": ("types", ["float32", "float32"]),
        "low of text": ("low", ["<b>"] * 4),
        "low of nothing": ("low", []),
        "mean of nothing": ("mean", None),
        "name of a number": ("name", 3),
        "classes of numbers": ("classes", [1]),
        "extra": ("extra", "others"),
        "transform": ("transform", {"kind": "standardise", "shift": ["a"], "scale": [1]}),
        "transform by nothing": ("transform", {"kind": "standardise", "shift": [0], "scale": [0]}),
        "transform of a kind": ("transform", {"kind": "magic"}),
        "table": ("table", {"x": 3}),
        "table without columns": ("table", {"x": []}),
        "covariates of rows without": ("covariates", [[0.5]]),
        "covariates of nothing": ("covariates", []),
        "negative width": ("width", -1),
        "negative crop": ("crop", -1),
        "places": ("places", ["x.npy"]),
        "place of a number": ("places", {"x.npy": 3}),
    }
    for name, (key, value) in values.items():
        change = partial(_changed, "run/data.json", lambda c, k=key, v=value: c.update({k: v}))
        yield f"data.json: {name}", change, SAMPLE
    infinite = write("run/data.json", '{"sizes": [[4]], "types": ["float32"], "low": [Infinity]}')
    yield "data.json: infinite", infinite, SAMPLE


def _logs() -> Iterator[tuple[str, Damage, tuple[str, ...]]]:
    lines: dict[str, str | bytes] = {
        "half a line": '{"epoch": 1, "los',
        "list": "[1]",
        "text for a number": '{"epoch": 1, "loss": "<img src=x onerror=alert(1)>"}',
        "mapping for a number": '{"epoch": 1, "loss": {}}',
        "truth for a number": '{"epoch": 1, "loss": true}',
        "whole number": '{"epoch": 1, "loss": ' + "9" * 5000 + "}",
        "infinite": '{"epoch": 1, "loss": 1e999}',
        "no number": '{"epoch": 1, "loss": NaN}',
        "deep": "[" * 100_000,
        "no UTF-8": b'{"epoch\xff": 1}',
        "empty line": "\n\n",
        "no epoch": '{"loss": 1.0}',
    }
    for name, line in lines.items():
        yield f"log: {name}", write("run/metrics.jsonl", line), REPORT
    yield "log: large", lambda root: os.truncate(root / "run/metrics.jsonl", 2**43), REPORT


def _weights() -> Iterator[tuple[str, Damage, tuple[str, ...]]]:
    name = "run/weights.safetensors"

    def header(content: object, size: int = 16) -> Damage:
        text = content if isinstance(content, bytes) else json.dumps(content).encode()
        return write(name, struct.pack("<Q", len(text)) + text + b"\0" * size)

    def changed(change: Callable[[dict[str, torch.Tensor]], object], root: Path) -> None:
        tensors = load_file(root / name)
        change(tensors)
        save_file(tensors, root / name)

    def first(change: Callable[[torch.Tensor], torch.Tensor]) -> Damage:
        return partial(changed, lambda t: t.update({min(t): change(t[min(t)]).contiguous()}))

    huge = {"w": {"dtype": "F32", "shape": [2**43], "data_offsets": [0, 2**45]}}
    found: dict[str, Damage] = {
        "empty": write(name, b""),
        "no header": write(name, b"\xff" * 8),
        "header of 43 TiB": write(name, struct.pack("<Q", 43 * 2**40) + b"{}"),
        "tensor of 43 TiB": header(huge),
        "file of 8 TiB": lambda root: os.truncate(root / name, 2**43),
        "header of a list": header([]),
        "deep header": header(b'{"a":' * 40_000),
        "overlapping": header({"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 9]}}),
        "zip": write(name, _zip({"a": b"b"})),
        "half": lambda root: os.truncate(root / name, 300),
        "NaN": first(lambda x: x * torch.nan),
        "infinite": first(lambda x: x + torch.inf),
        "doubles": first(lambda x: x.double()),
        "integers": first(lambda x: x.long()),
        "halves": first(lambda x: x.half()),
        "other shape": first(lambda x: x[..., :1]),
        "one more": partial(changed, lambda t: t.update(more=torch.ones(2))),
        "one less": partial(changed, lambda t: t.pop(min(t))),
        "none": partial(changed, lambda t: t.clear()),
    }
    for each, damage in found.items():
        yield f"weights: {each}", damage, SAMPLE

    def large(root: Path) -> None:
        """A whole file of 8 GiB of nothing, which takes no place on the disk."""
        text = json.dumps({"w": {"dtype": "F32", "shape": [2**31], "data_offsets": [0, 2**33]}})
        (root / name).write_bytes(struct.pack("<Q", len(text)) + text.encode())
        os.truncate(root / name, 8 + len(text) + 2**33)

    yield "weights: 8 GiB of nothing", large, SAMPLE


def _checkpoints() -> Iterator[tuple[str, Damage, tuple[str, ...]]]:
    name = "run/checkpoint.safetensors"

    def other(change: Callable[[Any], object]) -> Damage:
        """Whole, and of something else."""

        def damage(root: Path) -> None:
            kept = checkpoint.read(root / name)
            change(kept)
            checkpoint.write(root / name, kept)

        return damage

    def text(content: str, root: Path) -> None:
        """Whole, and of values that `write` does not write."""
        header = {"checkpoint": f"1 {hashlib.sha256(content.encode()).hexdigest()} {content}"}
        (root / name).write_bytes(save({}, header))

    def first(change: Callable[[torch.Tensor], object]) -> Damage:
        def changed(kept: Any) -> None:
            weights = kept["state"]["weights"]
            weights[min(weights)] = change(weights[min(weights)])

        return other(changed)

    def put(value: object, *place: str) -> Damage:
        def changed(kept: Any) -> None:
            for key in place[:-1]:
                kept = kept[key]
            kept[place[-1]] = value

        return other(changed)

    found: dict[str, Damage] = {
        "empty": write(name, b""),
        "header of 43 TiB": write(name, struct.pack("<Q", 43 * 2**40) + b"{}"),
        "file of 8 TiB": lambda root: os.truncate(root / name, 2**43),
        "half": lambda root: os.truncate(root / name, 900),
        "none": lambda root: (root / name).unlink(),
        "pipe": lambda root: ((root / name).unlink(), os.mkfifo(root / name)),
        "link": lambda root: ((root / name).rename(root / "c"), (root / name).symlink_to("../c")),
        "deep": partial(text, "[" * 50_000 + "]" * 50_000),
        "values beyond number": partial(text, "[" + "[]," * 13_000_000 + "[]]"),
        "long text": partial(text, '{"map": [["a", "' + "x" * 90_000_000 + '"]]}'),
        "keys of lists": partial(text, '{"map": [[[1], 2]]}'),
        "number of 5,000 digits": partial(text, '{"map": [["a", ' + "9" * 5000 + "]]}"),
        "no tensor of that name": partial(text, '{"map": [["a", {"tensor": "b"}]]}'),
        "weights that are NaN": first(lambda x: x * torch.nan),
        "weights of doubles": first(lambda x: x.double()),
        "weights of text": first(lambda x: "x"),
        "weights of another shape": first(lambda x: x[..., :1].clone()),
        "settings of lists": put([1], "settings"),
        "settings of others": put({"batch_size": {"a": [1] * 10_000}}, "settings"),
        "row of text": put({"epoch": 1, "step": 1, "loss": "<b>"}, "state", "row"),
        "row of a list": put([1], "state", "row"),
        "no row": put(None, "state", "row"),
        "sums of text": put({"loss": "x", "rows": 0, "sums": {}}, "state", "training", "mean"),
        "sums of numbers": put(
            {"loss": 0.0, "rows": 1, "sums": {"a": 3}}, "state", "training", "mean"
        ),
        "sums of no rows": put(1, "state", "training", "done"),
        "moved of nobody": put([["x"], []], "state", "training", "moved"),
        "optimiser of text": put("adam", "state", "training", "optimizer"),
        "streams that are short": put(torch.zeros(3).byte(), "state", "streams", "now", "torch"),
        "streams of text": put("x", "state", "streams", "start", "python"),
        "baselines of others": put({"z": torch.zeros(2)}, "state", "baselines"),
        "objective of text": put({"": {"step": "x"}}, "state", "objective"),
        "patience of text": put({"best": "x", "epoch": 1, "seen": 1}, "state", "watch"),
    }
    for value in (-1, 2**62, 2.5, None, True, [1], 10**30):
        found |= {
            f"{value} epochs": put(value, "state", "epochs"),
            f"{value} steps": put(value, "state", "training", "step"),
            f"{value} steps done": put(value, "state", "training", "done"),
            f"{value} calls before": put({"calls": value}, "began"),
        }
    for each, damage in found.items():
        yield f"checkpoint: {each}", damage, RESUME

    def replaced(make: Callable[[Path], object], root: Path) -> None:
        shutil.rmtree(root / "run/tensorboard", ignore_errors=True)
        make(root / "run/tensorboard")

    kinds: dict[str, Callable[[Path], object]] = {
        "pipe": os.mkfifo,
        "file": Path.touch,
        "link": lambda path: path.symlink_to("../elsewhere"),
    }
    for kind, make in kinds.items():
        yield f"{kind} at tensorboard", partial(replaced, make), RESUME
    yield "rows that are others", _rows, (*RESUME, "--data.path", "x.npy")
    yield "rows that are gone", lambda root: None, (*RESUME, "--data.path", "gone.npy")
    yield (
        "rows of a pipe",
        lambda root: os.mkfifo(root / "p.npy"),
        (*RESUME, "--data.path", "p.npy"),
    )


def _rows(root: Path) -> None:
    np.save(root / "x.npy", np.zeros((80, 4), np.float32))


def _summaries() -> Iterator[tuple[str, Damage, tuple[str, ...]]]:
    texts = {
        "half": '{"metrics": {"el',
        "empty": "",
        "list": "[]",
        "nothing": "{}",
        "deep": "[" * 100_000,
        "metrics of a list": '{"metrics": [], "skipped": {}}',
        "metrics of text": '{"metrics": {"elbo": "x"}, "skipped": {}}',
        "skipped of numbers": '{"metrics": {}, "skipped": {"a": 1}}',
    }
    for name, text in texts.items():
        yield f"summary: {name}", write("run/summary.json", text), REPORT
    bad = '"><img src=x onerror=alert(1)>'
    values: dict[str, tuple[str, object]] = {
        "text in place of a value": ("value", bad),
        "text in place of an error": ("standard_error", bad),
        "text in place of the other error": ("data_error", bad),
        "truth in place of a value": ("value", True),
        "list in place of a value": ("value", [1]),
        "bound": ("bound", bad),
        "number in place of a note": ("note", 1),
        "number in place of a flag": ("flag", 1),
        "number in place of a unit": ("unit", 1),
        "group": ("group", bad),
    }
    for name, (key, value) in values.items():

        def change(found: Any, key: str = key, value: object = value) -> None:
            found["metrics"]["elbo"][key] = value

        yield f"summary: {name}", partial(_changed, "run/summary.json", change), REPORT
        yield f"summary, again: {name}", partial(_changed, "run/summary.json", change), EVALUATE
    for text in ("NaN", "Infinity", "1e999", "9" * 400):

        def put(root: Path, text: str = text) -> None:
            path = root / "run/summary.json"
            found = json.loads(path.read_text())
            found["metrics"]["elbo"]["value"] = "HERE"
            path.write_text(json.dumps(found).replace('"HERE"', text))

        yield f"summary: {text[:9]}", put, REPORT


def _drawings() -> Iterator[tuple[str, Damage, tuple[str, ...]]]:
    inside = {
        "script": "<script>alert(1)</script>",
        "handler": '<rect onload="alert(1)"/>',
        "frame": "<foreignObject><iframe/></foreignObject>",
        "elsewhere": '<image href="https://example.org/x.png"/>',
        "file": '<image xlink:href="file:///etc/passwd"/>',
        "style": "<style>@import 'https://example.org'</style>",
        "url": '<rect fill="url(https://example.org)"/>',
    }
    for name, text in inside.items():
        whole = f'<svg xmlns="http://www.w3.org/2000/svg">{text}</svg>'
        yield f"picture: {name}", write("run/khat.svg", whole), REPORT
    entities = '<!DOCTYPE svg [<!ENTITY a "b">]><svg>&a;</svg>'
    yield "picture: entities", write("run/khat.svg", entities), REPORT
    yield "picture: tags without end", write("run/khat.svg", "<svg" * 2**19), REPORT
    yield "picture: large", write("run/khat.svg", "<svg>" + " " * 2**23), REPORT
    yield "picture: no UTF-8", write("run/khat.svg", b"<svg>\xff"), REPORT


def _zip(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


def npy(shape: str, kind: str = "<f4", content: bytes = b"\0" * 64) -> bytes:
    """A NumPy file that says of itself what it likes."""
    head = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}"
    head = head.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode() + content


def _bomb() -> bytes:
    """An archive of 2 MB that grows to 2 GB."""
    file = io.BytesIO()
    with (
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("rows.npy", "w", force_zip64=True) as part,
    ):
        part.write(npy("(2000000, 250)", "<f4", b""))
        for _ in range(2000):
            part.write(b"\0" * 10**6)
    return file.getvalue()


def _arrays() -> Iterator[tuple[str, Damage, tuple[str, ...]]]:
    whole = io.BytesIO()
    np.save(whole, np.zeros((4, 4)))
    objects = io.BytesIO()
    np.save(objects, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    contents: dict[str, bytes] = {
        "empty": b"",
        "no array": b"hello",
        "half a header": whole.getvalue()[:20],
        "half": whole.getvalue()[:-9],
        "43 TiB": npy("(11815827456, 1000)"),
        "large and sparse": npy(f"({2**32}, 4)"),
        "overflowing": npy(f"({2**62}, {2**62})"),
        "negative": npy("(-1, 4)"),
        "deep header": npy("(" * 60),
        "code in a header": npy("__import__('os').system('touch victim')"),
        "shape of text": npy("('a',)"),
        "pickled": objects.getvalue(),
        "complex": npy("(2, 4)", "<c8"),
        "text": npy("(2, 4)", "<U2"),
        "dates": npy("(1, 8)", "<M8[s]"),
        "records": npy("(1, 8)", "[('a', '<f4')]").replace(b"'[(", b"[(").replace(b")]'", b")]"),
        "one number": npy("()"),
        "no rows": npy("(0, 4)"),
        "NaN": npy("(4, 4)", "<f4", np.full((4, 4), np.nan, "<f4").tobytes()),
    }
    for name, content in contents.items():
        yield f"npy: {name}", write("new.npy", content), new("new.npy")
        yield f"npy as data: {name}", write("new.npy", content), shown("arrays", "new.npy")
    rows = whole.getvalue()
    crc = bytearray(_zip({"rows.npy": rows}, zipfile.ZIP_STORED))
    crc[140] ^= 255
    locked = bytearray(_zip({"rows.npy": rows}))
    locked[6] |= 1
    locked[locked.index(b"PK\x01\x02") + 8] |= 1
    method = bytearray(_zip({"rows.npy": rows}))
    method[8] = method[method.index(b"PK\x01\x02") + 10] = 99
    archives = {
        "half": _zip({"rows.npy": rows})[:60],
        "bomb": _bomb(),
        "no array": _zip({"rows.npy": b"hello"}),
        "no member": _zip({}),
        "43 TiB": _zip({"rows.npy": npy("(11815827456, 1000)")}),
        "pickled": _zip({"rows.npy": objects.getvalue()}),
        "wrong sum": bytes(crc),
        "locked": bytes(locked),
        "unknown method": bytes(method),
        "text": _zip({"train.txt": b"hello"}),
    }
    for name, content in archives.items():
        yield f"npz: {name}", write("new.npz", content), new("new.npz")
        yield f"npz as data: {name}", write("new.npz", content), shown("arrays", "new.npz")
    yield (
        "npz: unknown names",
        write("new.npz", _zip({"../a.npy": rows, "b.npy": rows})),
        new("new.npz"),
    )


def _tables() -> Iterator[tuple[str, Damage, tuple[str, ...]]]:
    contents = {
        "empty.csv": b"",
        "bytes.csv": b"\xff\xfe\0\xff",
        "ragged.csv": b"a,b\n1,2\n1,2,3\n",
        "quote.csv": b'a,b\n"1,2\n',
        "names.csv": b"a,b,c,d\n",
        "same.csv": b",".join([b"a"] * 10**5) + b"\n" + b",".join([b"1"] * 10**5),
        "words.csv": b"a,b,c,d\nx,y,z,w\n",
        "empty.parquet": b"",
        "bytes.parquet": b"PAR1" + b"\xff" * 100 + b"PAR1",
        "long.parquet": b"PAR1" + struct.pack("<I", 2**31) + b"PAR1",
    }
    for name, content in contents.items():
        yield f"table: {name}", write(name, content), new(name)
        yield f"table as data: {name}", write(name, content), shown("table", name)

    def repeated(root: Path) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        one = pa.DictionaryArray.from_arrays(pa.array(np.zeros(10**8, np.int8)), [1.0])
        parquet.write_table(pa.table({"a": one}), root / "same.parquet")

    if find_spec("pyarrow"):
        yield "table: grows", repeated, new("same.parquet")


def png(width: int, height: int) -> bytes:
    """A picture that says how large it is, and has nothing in it."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head)
    return start + chunk(b"IDAT", zlib.compress(b"\0" * 9)) + chunk(b"IEND", b"")


def _images() -> Iterator[tuple[str, Damage, tuple[str, ...]]]:
    words = shown("folder", "images")
    for name, content in {
        "large": png(60_000, 60_000),
        "rather large": png(12_000, 12_000),
        "half": png(8, 8)[:40],
        "no image": b"hello",
        "empty": b"",
        "no size": png(0, 0),
    }.items():

        def put(root: Path, content: bytes = content) -> None:
            (root / "images").mkdir()
            for k in range(4):
                (root / "images" / f"{k}.png").write_bytes(content)

        yield f"image: {name}", put, words

    def pipe(root: Path) -> None:
        (root / "images").mkdir()
        os.mkfifo(root / "images" / "a.png")

    def round_about(root: Path) -> None:
        (root / "images" / "a").mkdir(parents=True)
        for name in ("b", "c"):
            (root / "images" / "a" / name).symlink_to(root / "images")

    yield "image: pipe", pipe, words
    yield "image: links that lead round", round_about, words
    yield "image: none", lambda root: (root / "images").mkdir(), words

    def idx(content: bytes | None, root: Path) -> None:
        raw = root / "MNIST" / "raw"
        raw.mkdir(parents=True)
        for part in ("train", "t10k"):
            for name in (f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"):
                if content is None:
                    os.mkfifo(raw / name)
                else:
                    (raw / name).write_bytes(content)

    for name, content in {
        "pipe": None,
        "empty": b"",
        "43 TiB": struct.pack(">IIII", 0x803, 2**31, 2**10, 2**10) + b"\0" * 9,
        "unknown type": struct.pack(">IIII", 0x103, 1, 28, 28) + b"\0" * 784,
        "many dimensions": struct.pack(">I", 0x8FF) + b"\0" * 2000,
    }.items():
        words = ("show", "--data", "mnist", "--data.root", ".")
        yield f"idx: {name}", partial(idx, content), words


def _settings() -> Iterator[tuple[str, Damage, tuple[str, ...]]]:
    def nothing(root: Path) -> None:
        pass

    long = "n" * 300
    for name, words in {
        "name that is too long, to fit": ("fit", "--epochs", "1", "--out", long),
        "name that is too long, to sample": (*SAMPLE[:-1], f"{long}.npy"),
        "name that is too long, to read": new(f"{long}.npy"),
        "name that is too long, to evaluate": ("evaluate", long),
        "name that is no UTF-8, to fit": ("fit", "--epochs", "1", "--out", "a\udcff"),
        "name that is no UTF-8, to sample": (*SAMPLE[:-1], "\udcff.npy"),
        "name that is no UTF-8, to show": ("report", "run", "--out", "\udcff.html"),
        "folder that is a file": ("fit", "--epochs", "1", "--out", "x.npy/run"),
        "file for a folder": ("fit", "--epochs", "1", "--out", "x.npy"),
        "folder that is not there": (*SAMPLE[:-1], "gone/x.npy"),
        "deep value": ("show", "--dim", "[" * 3000),
        "number beyond what sizes can be": ("show", "--dim", "9" * 21),
        "list with such a number": (
            "show",
            "--encoder.body",
            "MLP",
            "--encoder.body.hidden",
            f"[{2**63}]",
        ),
    }.items():
        yield name, nothing, words
