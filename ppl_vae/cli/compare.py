"""The command that ranks runs."""

from collections.abc import Sequence

__all__ = ["compare"]


def compare(
    runs: Sequence[str],
    draws: int = 1000,
    rows: int = 1000,
    seed: int = 0,
    device: str = "auto",
    trust: bool = False,
    data: Sequence[tuple[str, str]] = (),
) -> None:
    """Ranks runs by the likelihood of held-out data, with the errors of the differences.

    The held-out rows are those of the first run; all must have been trained on the same data. A
    proposal is fitted to each datum where a run's own guide is none.

    Args:
        runs: the folders of the runs, two or more.
        draws: draws of z for each datum.
        rows: held-out data to take at most.
        seed: of the draws and of the choice of rows.
        device: where to compute, such as cpu or cuda:0; auto takes a GPU if there is one.
        trust: allow classes from outside ppl_vae in the runs' configurations.
        data: settings of the data, for data that have moved.
    """
    from ppl_vae.comparison import check_apart, compare
    from ppl_vae.evaluation.metric import Effort
    from ppl_vae.loading import load
    from ppl_vae.report.evaluation import subject_of
    from ppl_vae.training.run import Run

    if len(runs) < 2:
        raise ValueError("a comparison needs two runs or more")
    check_apart(runs)
    folders = [Run(name) for name in runs]
    first = folders[0].config.get("data")
    for folder in folders[1:]:
        if not data and folder.config.get("data") != first:
            raise ValueError(
                f"{folder.path} was trained on other data than {folders[0].path}, whose held-out "
                "rows may be among them: compare runs on one split, or say --data"
            )
    effort = Effort(rows=rows, seed=seed)
    models = {}
    for folder in folders:
        experiment = load(folder, trust, device, data)
        if experiment.data.test is None:
            raise ValueError(f"{folder.path} has no held-out rows to compare on")
        models[str(folder.path)] = experiment.pair.model, experiment.pair.guide
        if len(models) == 1:
            x = subject_of(experiment, effort).few
    print(compare(models, x, draws=draws, seed=seed))
