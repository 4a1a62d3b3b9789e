"""Several processes with rows of their own are one process with all of them."""

import os
import time
from pathlib import Path
from typing import Any

import pytest
import ranks_recorded
import torch
from ranks import (
    CASES,
    DRAWING,
    FAULTS,
    FITS,
    REPEATS,
    SPLITS,
    Case,
    Counting,
    D,
    Noisy,
    Rows,
    fitted,
    halved,
    optimised,
    run,
    scored,
    unlike,
    work,
    worst,
)
from ranks_recorded import RECORDED
from torch import multiprocessing
from torch.utils.data import DataLoader

from ppl_vae.objectives import MMD, InfoVAE
from ppl_vae.world import World, here

Found = dict[tuple[str, str], Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes have written what they find: once, whichever worker of pytest asks."""
    root = tmp_path_factory.getbasetemp()
    folder = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "ranks"
    try:
        folder.mkdir()
    except FileExistsError:
        until = time.monotonic() + 900
        while not (folder / "over").exists() and time.monotonic() < until:
            time.sleep(0.5)
        return folder
    try:
        multiprocessing.start_processes(work, (str(folder),), nprocs=2, start_method="spawn")
    finally:
        (folder / "over").touch()
    return folder


@pytest.fixture(scope="module")
def shared(folder: Path) -> list[Found]:
    """What each of two processes finds for all cases."""
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", CASES)
def test_loss_gradients_and_terms_are_those_of_one_process(
    shared: list[Found], split: str, name: str
) -> None:
    expected = run(CASES[name], Rows.make(sum(SPLITS[split])))
    assert worst(shared[0][split, name], expected) < 1e-8
    assert worst(shared[1][split, name], shared[0][split, name]) == 0


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("fault", FAULTS)
def test_wrong_conventions_are_seen(shared: list[Found], fault: str) -> None:
    """Some of them in the gradients alone, as the loss is right."""
    for split, sizes in SPLITS.items():
        expected = run(CASES[FAULTS[fault]], Rows.make(sum(sizes)))
        found = shared[0][split, f"! {fault}"]
        assert worst(found, expected, "gradient") > 1e-3
        if fault in ("own slice", "mean"):
            assert worst(found, expected, "loss") < 1e-12


def test_one_process_is_left_as_it_is() -> None:
    world, x = here(), torch.randn(3)
    assert type(world) is World
    assert world.total(x) is world.gather(x) is world.portion(x, 3.0) is x
    assert world.totals(x) == world.shard(x) == (x,)
    assert (world.number(3), world.over(x, lambda _: x + 1), world.first("a")) == (3, x, "a")


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", FITS)
def test_fit_ends_with_the_weights_of_one_process(shared: list[Found], name: str) -> None:
    assert unlike(shared[0]["fit", name], fitted(FITS[name])) < 1e-10
    assert unlike(shared[1]["fit", name], shared[0]["fit", name]) == 0


def test_all_start_from_the_first_process_whenever_there_is_something_new(
    shared: list[Found],
) -> None:
    """Parameters of the data after the store was cleared, and another objective's critic."""
    start = Rows.make(128)[:64, :D].mean(0)
    for found in shared:
        for one in found["met again", ""]:
            torch.testing.assert_close(one, start, rtol=1e-12, atol=1e-12)
        assert all(map(torch.equal, found["critics", ""], shared[0]["critics", ""]))
        assert not torch.equal(*found["critics", ""])


@pytest.mark.usefixtures("double")
def test_half_precision_is_that_of_one_process_to_its_rounding(shared: list[Found]) -> None:
    """Sums over rows, of a process each, are rounded once more."""
    assert unlike(shared[0]["halved", ""], shared[1]["halved", ""]) == 0
    two, one, full = (
        [row["loss"] for name, row in found.items() if name.startswith("row")]
        for found in (shared[0]["halved", ""], halved(), halved("full"))
    )
    assert two == pytest.approx(one, rel=2**-8)
    assert full != pytest.approx(one, rel=1e-4), "networks are computed in full precision"


@pytest.mark.usefixtures("double")
def test_a_run_goes_on_as_if_nothing_had_been(shared: list[Found], folder: Path) -> None:
    """On as many processes bit for bit; and on another number, here one."""
    for found in shared:
        assert unlike(found["fit", "resumed"], shared[0]["fit", "whole"]) == 0
    files = {"checkpoint.safetensors", "config.yaml", "data.json", "metrics.jsonl"}
    assert {file.name for file in (folder / "part").iterdir()} == files | {"weights.safetensors"}
    alone = fitted(DRAWING, epochs=5, resume=folder / "part")  # in this test alone
    assert unlike({"row 3": alone["row 3"]}, {"row 3": shared[0]["fit", "whole"]["row 3"]}) == 0
    assert "row 4" in alone


@pytest.mark.usefixtures("double")
def test_a_run_that_one_process_began_goes_on_over_two(shared: list[Found], folder: Path) -> None:
    """And ends in the weights of the one: its noise is given by row."""
    assert unlike(shared[0]["fit", "more"], fitted(FITS["MMD"])) < 1e-10
    assert unlike(shared[1]["fit", "more"], shared[0]["fit", "more"]) == 0


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", ["stream", "loader", "drawn"])
def test_rows_that_are_streamed_or_drawn_are_shared_out(shared: list[Found], name: str) -> None:
    case = Case(lambda: InfoVAE(MMD(pairs="all"), alpha=0.5, scale=9.0))
    data = {
        "stream": Counting(),
        "loader": DataLoader(Counting(), batch_size=64, shuffle=True),
        "drawn": Noisy(Rows.make(236)),
    }[name]
    assert unlike(shared[0]["fit", name], fitted(case, data=data, epochs=2)) < 1e-10
    assert unlike(shared[1]["fit", name], shared[0]["fit", name]) == 0


def test_each_process_reads_its_own_rows_of_a_stream(shared: list[Found]) -> None:
    read = [found["read", ""] for found in shared]
    for epoch in (slice(0, 118), slice(118, 236)):
        assert sorted(read[0][epoch] + read[1][epoch]) == list(range(236))


def test_each_process_maps_its_own_rows_of_a_file(shared: list[Found]) -> None:
    epochs = [found["mapped", ""] for found in shared]
    assert len(epochs[0]) == 2
    for one, other in zip(*epochs, strict=True):
        assert sorted(one + other) == list(range(len(one + other)))
        # A row at most in each of the four batches of an epoch.
        assert abs(len(one) - len(other)) <= 4


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_steps_are_eager_ones_bit_for_bit(shared: list[Found], name: str) -> None:
    """Where the first process has as many rows in all, and the second in turn another number."""
    for found in shared:
        recorded, eager = found["recorded", name], found["eager", name]
        assert recorded["said"] == []
        assert recorded["graphs"] == len(ranks_recorded.SPLITS)
        assert recorded["losses"] == eager["losses"] == shared[0]["eager", name]["losses"]
        assert all(map(torch.equal, recorded["state"], eager["state"]))
        assert all(map(torch.equal, recorded["noise"], eager["noise"]))


FALLS = {
    "branching": "a number is read from a tensor on the way",
    "counting": "its loss differs from the eager step's",
}


@pytest.mark.parametrize("name", FALLS)
def test_where_one_cannot_record_all_stay_eager_and_say_so_once(
    shared: list[Found], name: str
) -> None:
    for found in shared:
        recorded, eager = found["recorded", name], found["eager", name]
        (said,) = recorded["said"]
        assert FALLS[name] in said
        assert recorded["graphs"] == 0
        if name != "counting":  # which has moved on by the try
            assert recorded["losses"] == eager["losses"]
            assert all(map(torch.equal, recorded["state"], eager["state"]))


@pytest.mark.parametrize("name", FITS)
def test_a_fit_with_recorded_steps_is_the_eager_one(shared: list[Found], name: str) -> None:
    for found in shared:
        assert unlike(found["recorded fit", name], found["fit", name]) == 0
        assert found["replays", ""] > 5 * len(FITS)


SAID = {
    "elbo": "ValueError: elbo=TraceGraph_ELBO(...) does not go over 2 processes: leave elbo out, "
    "or train in one process",
    "IWAE": "ValueError: latent site 'w', outside the data plate, with IWAE does not go over 2 "
    "processes: all data share one weight there; use InfoVAE(alpha=0)",
    "fit": "ValueError: Trace_ELBO, a loss of Pyro's, does not go over 2 processes: use InfoVAE "
    "or its kin",
    "SVI": "ValueError: Trace_ELBO, a loss of Pyro's, does not go over 2 processes: use InfoVAE "
    "or its kin",
    "held out": "ValueError: 1 held-out row for 2 processes: each needs one or more, hold out "
    "more or none",
    "row": "ValueError: a batch of 1 row for 2 processes: each needs one or more",
    "written": "ValueError: latent site 'w', outside the data plate, with IWAE does not go over 2 "
    "processes: all data share one weight there; use InfoVAE(alpha=0)",
    "batch": "ValueError: batch_size is 1, of all 2 processes together: each needs a row or more",
    "infinite": "FloatingPointError: term 'reconstruction/bad' is -inf at step 1: look at the "
    "distribution's parameters there, the data, or the learning rate",
    "held": "RuntimeError: parameter 'more' is in processes [1] of 2 alone: let all ask for the "
    "same parameters at each step",
    "shapes": "RuntimeError: the 2 processes hold [5, 5] parameters and buffers, of other shapes: "
    "build the same model, guide and objective in each",
    "unequal": "RuntimeError: parameter 'of 1' is in processes [1] of 2 alone: let all ask for "
    "the same parameters at each step",
    "callback": "2 epochs",
}


@pytest.mark.parametrize("name", SAID)
def test_what_one_meets_all_say(shared: list[Found], name: str) -> None:
    """An infinite density of one process, a wish to stop, or what no process can do."""
    assert [found["said", name] for found in shared] == [SAID[name]] * 2


@pytest.mark.usefixtures("shared")
def test_what_is_refused_leaves_no_folder(folder: Path) -> None:
    assert not (folder / "no").exists()
    assert (folder / "part").exists()


@pytest.mark.usefixtures("double")
def test_a_score_function_has_the_gradient_of_one_process(shared: list[Found]) -> None:
    """In the mean: the baseline is of a process's own rows."""
    one, two = scored(), shared[0]["scored", ""]
    error = ((one.var(0) + two.var(0)) / REPEATS).sqrt()
    assert ((one.mean(0) - two.mean(0)).abs() < 4.5 * error).all()
    assert (error < 0.1 * one.mean(0).abs()).all(), "the test would see a factor of two"


@pytest.mark.usefixtures("double")
def test_a_loop_with_an_optimiser_of_torch_reduces_by_itself(shared: list[Found]) -> None:
    expected = optimised()
    assert worst([shared[0]["optimised", ""]], [expected]) < 1e-8
    assert len(expected) > 5
