"""Two thousand inputs by chance, of which `make fuzz` runs a hundred thousand."""

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pyro
import pytest
import torch
from fuzz.inputs import KINDS, draw
from fuzz.running import Fault, Fuzz, smaller

NUMBER, PARTS = 2000, 8


@pytest.fixture(scope="module")
def fuzz(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fuzz]:
    yield Fuzz(tmp_path_factory.mktemp("fuzz"))
    pyro.clear_param_store()


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.usefixtures("unpainted")
def test_inputs(fuzz: Fuzz, part: int) -> None:
    """Each is taken, or refused in one line of the library's own with nothing left behind."""
    faults = []
    for seed in range(part, NUMBER, PARTS):
        kind, value = draw(seed)
        fault = fuzz.fault(kind, value)
        if fault is not None:
            faults.append(f"seed {seed}, {kind}: {value}\n{fault.what}\n{fault.text}")
    assert not faults, "\n".join(faults)


_ROWS = {"shape": [5, 4], "type": "float32", "fill": "ones", "form": "tuple"}
MENDED: list[tuple[str, object]] = [
    (
        "pair",
        {"sites": [{"law": "categorical", "guide": "law"}], "observed": "none", "use": "fit"},
    ),
    ("pair", {"sites": [{}], "observed": "none", "objective": "GECO(SquaredError(), 1.0)"}),
    ("command", ["show", "--dim", "9" * 21]),
    ("file", {"file": "run/metrics.jsonl", "changes": [["insert", 0.82, 104, "1e999"]]}),
    *(
        ("rows", {"call": call, "rows": {**_ROWS, **rows}, "settings": {}})
        for call, rows in (
            ("decode", {"shape": [2, 2], "type": "object", "fill": "huge", "form": "array"}),
            ("Dataset", {"shape": [5, 0], "form": "pandas"}),
            ("Dataset", {"type": "complex64", "form": "pandas"}),
        )
    ),
    (
        "rows",
        {
            "call": "Dataset",
            "rows": _ROWS,
            "settings": {"train_covariates": {**_ROWS, "form": "scalar"}},
        },
    ),
]
"""Inputs that were faults once."""


@pytest.mark.parametrize(("kind", "value"), MENDED)
@pytest.mark.usefixtures("unpainted")
def test_mended_inputs(fuzz: Fuzz, kind: str, value: object) -> None:
    assert fuzz.fault(kind, value) is None


def test_a_seed_is_an_input() -> None:
    assert [draw(seed) for seed in range(200)] == [draw(seed) for seed in range(200)]
    assert {draw(seed)[0] for seed in range(200)} == {*KINDS}


@pytest.mark.parametrize(
    ("raised", "what"),
    [
        (KeyError("a"), "KeyError in"),
        (ValueError("one line, and not from the library"), "ValueError in"),
        (None, "a refused call left or changed a file"),
        ("slow", "too long"),
    ],
)
def test_faults_are_seen(
    fuzz: Fuzz, raised: object, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(value: object, made: dict[str, object]) -> None:
        if isinstance(raised, Exception):
            raise raised
        if raised == "slow":
            monkeypatch.setattr("fuzz.running.SECONDS", 0.01)
            start = time.process_time()
            while time.process_time() < start + 0.02:
                torch.ones(10).sum()
        else:
            Path("left").touch()

    monkeypatch.setattr(fuzz, "_rows", wrong)
    found = fuzz.fault("rows", {})
    assert isinstance(found, Fault)
    assert what in found.what
    monkeypatch.undo()
    assert fuzz.fault("command", ["--version"]) is None


def test_an_input_is_made_smaller() -> None:
    chance = random.Random(0)
    value = {"a": [chance.random() for _ in range(20)] + ["bad"], "b": {"c": "d"}, "e": 1}

    def is_fault(less: object) -> bool:
        return "bad" in str(less)

    assert smaller(value, is_fault) == {"a": ["bad"]}
