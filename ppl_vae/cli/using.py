"""The commands that use a run: codes of new rows, data from codes, samples."""

from collections.abc import Sequence
from typing import Literal

from ppl_vae.cli.applied import Settings, as_array, command, load_run, new_rows, put

__all__ = ["COMMANDS"]


def encode(
    run: str,
    data: str,
    out: str,
    draws: int = 0,
    sd: bool = False,
    weights: bool = False,
    index: str | None = None,
    seed: int = 0,
    device: str = "auto",
    trust: bool = False,
    settings: Settings = (),
) -> None:
    """Codes of new rows: posterior means, or draws with their log-weights.

    Args:
        run: the run's folder.
        data: file of new rows: .csv, .parquet, .npy or .npz; or a folder of images.
        out: file to write: .csv, .parquet, .npy or .npz.
        draws: how many draws of q(z | x) for each row; 0 for the means.
        sd: write posterior standard deviations and not means.
        weights: write the draws' log p(x, z) - log q(z | x) too, in nats.
        index: column of the table that names its rows.
        seed: of the draws.
        device: where to compute, such as cpu or cuda:0; auto takes a GPU if there is one.
        trust: allow classes from outside ppl_vae in the run's configuration.
    """
    from ppl_vae.using.files import check_out, write

    path = check_out(out, several=weights)
    trained = load_run(run, device, trust, settings)
    rows = new_rows(trained, data, index)
    found = trained.encode(rows, draws, sd=sd, weights=weights, seed=seed)
    names = trained.code_names
    if draws:
        more = {} if found.log_weights is None else {"log_weight": as_array(found.log_weights)}
        write(path, found.codes, names, **more)
    else:
        write(path, found, names)
    print(path)


def decode(
    run: str,
    data: str,
    out: str,
    given: str | None = None,
    mean: bool = True,
    index: str | None = None,
    seed: int = 0,
    device: str = "auto",
    trust: bool = False,
    settings: Settings = (),
) -> None:
    """Data from codes: the mean of p(x | z) at each, or a draw.

    Args:
        run: the run's folder.
        data: file of codes, as encode writes it.
        out: file to write: .csv, .parquet, .npy, .npz or, of images and points, .png.
        given: file of covariates or labels, a row for each code; those of the data by default.
        mean: write means, where there are any in closed form, and not draws.
        index: column of the table that names its rows.
        seed: of the draws.
        device: where to compute, such as cpu or cuda:0; auto takes a GPU if there is one.
        trust: allow classes from outside ppl_vae in the run's configuration.
    """
    from ppl_vae.using.files import check_out, read

    path = check_out(out, pictures=True)
    trained, codes = load_run(run, device, trust, settings), read(data, index)
    if hasattr(codes, "columns"):
        codes = codes[[n for n in trained.code_names if n in codes.columns] or [*codes.columns]]
    found = trained.decode(codes, None if given is None else read(given), mean=mean, seed=seed)
    put(path, found, trained, "Data from codes")


def reconstruct(
    run: str,
    data: str,
    out: str,
    draws: int = 0,
    index: str | None = None,
    seed: int = 0,
    device: str = "auto",
    trust: bool = False,
    settings: Settings = (),
) -> None:
    """Reconstructions of new rows: the mean of p(x | z) at each row's mean code.

    Args:
        run: the run's folder.
        data: file of new rows: .csv, .parquet, .npy or .npz; or a folder of images.
        out: file to write: .csv, .parquet, .npy, .npz or, of images and points, .png.
        draws: how many reconstructions at draws of q(z | x) for each row; 0 for one at the mean.
        index: column of the table that names its rows.
        seed: of the draws.
        device: where to compute, such as cpu or cuda:0; auto takes a GPU if there is one.
        trust: allow classes from outside ppl_vae in the run's configuration.
    """
    from ppl_vae.using.files import check_out

    path = check_out(out, pictures=not draws)
    trained = load_run(run, device, trust, settings)
    rows = new_rows(trained, data, index)
    found = trained.reconstruct(rows, draws, seed=seed)
    put(path, found, trained, "Reconstructions")


def sample(
    run: str,
    n: int = 64,
    out: str | None = None,
    given: str | None = None,
    steps: int = 0,
    mean: bool | None = None,
    seed: int = 0,
    device: str = "auto",
    trust: bool = False,
    settings: Settings = (),
) -> None:
    """New data from a run's model: draws z of the prior, and x of p(x | z).

    Args:
        run: the run's folder.
        n: how many samples.
        out: file to write: a picture (.png), or the numbers (.csv, .parquet, .npy, .npz);
            samples.png in the run's folder by default.
        given: file of covariates or labels, used in turn; those of the data by default.
        steps: steps of the Markov chain that encodes and decodes, from those draws on.
        mean: write means of p(x | z) and not draws; a picture shows means by default.
        seed: of the draws.
        device: where to compute, such as cpu or cuda:0; auto takes a GPU if there is one.
        trust: allow classes from outside ppl_vae in the run's configuration.
    """
    from pathlib import Path

    from ppl_vae.using.files import check_out, read

    path = check_out(Path(run, "samples.png") if out is None else out, pictures=True)
    trained = load_run(run, device, trust, settings)
    mean = path.suffix == ".png" if mean is None else mean
    rows = None if given is None else read(given)
    drawn = trained.sample(n, rows, steps=steps, mean=mean, seed=seed)
    title = f"{trained.drawn_as(mean and not steps)} at draws of z from the prior"
    put(path, drawn, trained, title)


def interpolate(
    run: str,
    data: str,
    out: str,
    steps: int = 9,
    path: Literal["line", "arc"] = "line",
    index: str | None = None,
    device: str = "auto",
    trust: bool = False,
    settings: Settings = (),
) -> None:
    """The model's data on the way from each row of a file to the next.

    Args:
        run: the run's folder.
        data: file of two rows or more: .csv, .parquet, .npy or .npz; or a folder of images.
        out: file to write: .csv, .parquet, .npy, .npz or, of images and points, .png.
        steps: points on each way, both ends among them.
        path: a straight line between codes, or an arc that keeps their length.
        index: column of the table that names its rows.
        device: where to compute, such as cpu or cuda:0; auto takes a GPU if there is one.
        trust: allow classes from outside ppl_vae in the run's configuration.
    """
    from ppl_vae.using.files import check_out

    file = check_out(out, pictures=True)
    trained = load_run(run, device, trust, settings)
    rows = new_rows(trained, data, index)
    if len(rows) < 2:
        raise ValueError(f"{data!r} has {len(rows)} row: a way needs two")
    found = trained.interpolate(rows[:-1], rows[1:], steps, path=path)
    put(file, found, trained, "From row to row", steps)


def traverse(
    run: str,
    data: str,
    out: str,
    values: Sequence[float] = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0),
    dims: Sequence[int] | None = None,
    index: str | None = None,
    device: str = "auto",
    trust: bool = False,
    settings: Settings = (),
) -> None:
    """The model's data as each coordinate of a row's code takes values, the others held.

    Args:
        run: the run's folder.
        data: file of rows: .csv, .parquet, .npy or .npz; or a folder of images.
        out: file to write: .csv, .parquet, .npy, .npz or, of images and points, .png.
        values: what the coordinates are set to.
        dims: the coordinates that move; all by default.
        index: column of the table that names its rows.
        device: where to compute, such as cpu or cuda:0; auto takes a GPU if there is one.
        trust: allow classes from outside ppl_vae in the run's configuration.
    """
    from ppl_vae.using.files import check_out

    path = check_out(out, pictures=True)
    trained = load_run(run, device, trust, settings)
    rows = new_rows(trained, data, index)
    found = trained.traverse(rows, values, dims)
    put(path, found, trained, "Along single coordinates", len(values))


def impute(
    run: str,
    data: str,
    out: str,
    draws: int = 0,
    method: Literal["gibbs", "importance"] = "gibbs",
    samples: int = 500,
    index: str | None = None,
    seed: int = 0,
    device: str = "auto",
    trust: bool = False,
    settings: Settings = (),
) -> None:
    """Rows with their missing values filled in: expectations given the rest, or draws.

    Args:
        run: the run's folder.
        data: file of rows, empty or NaN where a value is missing: .csv, .parquet, .npy or .npz.
        out: file to write: .csv, .parquet, .npy, .npz or, of images and points, .png.
        draws: how many draws of each row; 0 for the expectation.
        method: gibbs, a chain for each row that is right whatever the guide is; or importance,
            weighted draws of the guide, for a run trained on rows with missing values.
        samples: steps of the chain, or draws.
        index: column of the table that names its rows.
        seed: of the draws.
        device: where to compute, such as cpu or cuda:0; auto takes a GPU if there is one.
        trust: allow classes from outside ppl_vae in the run's configuration.
    """
    from ppl_vae.using.files import check_out

    path = check_out(out, pictures=not draws)
    trained = load_run(run, device, trust, settings)
    rows = new_rows(trained, data, index)
    found = trained.impute(rows, draws, method=method, num_samples=samples, seed=seed)
    put(path, found, trained, "Missing values filled in")


def log_likelihood(
    run: str,
    data: str,
    out: str | None = None,
    samples: int = 1000,
    index: str | None = None,
    seed: int = 0,
    device: str = "auto",
    trust: bool = False,
    settings: Settings = (),
) -> None:
    """The log-likelihood of new rows in nats, importance-weighted from the guide.

    Args:
        run: the run's folder.
        data: file of new rows: .csv, .parquet, .npy or .npz; or a folder of images.
        out: file to write each row's to: .csv, .parquet, .npy or .npz; the mean is printed.
        samples: draws for each row.
        index: column of the table that names its rows.
        seed: of the draws.
        device: where to compute, such as cpu or cuda:0; auto takes a GPU if there is one.
        trust: allow classes from outside ppl_vae in the run's configuration.
    """
    from ppl_vae.using.files import check_out, write

    path = None if out is None else check_out(out)
    trained = load_run(run, device, trust, settings)
    rows = new_rows(trained, data, index)
    found = trained.log_likelihood(rows, samples, seed=seed)
    values = as_array(found)
    error = f" +- {values.std(ddof=1) / len(values) ** 0.5:.2g}" if len(values) > 1 else ""
    print(f"log p(x) {values.mean():.6g}{error} nats per datum, {len(values)} rows")
    if path is not None:
        table = found.to_frame() if hasattr(found, "to_frame") else found
        write(path, table, ["log_likelihood"])
        print(path)


COMMANDS = {
    function.__name__.replace("_", "-"): command(function)
    for function in (
        encode, decode, reconstruct, sample, interpolate, traverse, impute, log_likelihood
    )
}  # fmt: skip
"""The commands by name."""
