"""Training that goes on from another run's weights, with parts of the pair held as they are."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from ppl_vae.data.known import Known
from ppl_vae.program.modules import Program, modules_of
from ppl_vae.training.run import Run
from ppl_vae.training.weights import load, state

__all__ = ["Frozen", "check_rows", "freezing", "go_on_from"]


def check_rows(run: Run | str | Path, rows: Sequence[Tensor]) -> None:
    """Holds new rows against those of a run.

    Raises:
        ValueError: if they are of another kind.

    Warns:
        UserWarning: of values far outside the run's.
    """
    run = run if isinstance(run, Run) else Run(run)
    if (kept := run.data) is None:
        return
    try:
        said = Known.of_run(kept).check(rows)
    except ValueError as error:
        raise ValueError(f"start={str(run.path)!r}: {error}") from error
    if said:
        warnings.warn(f"start={str(run.path)!r}: {said}", stacklevel=5)


def go_on_from(
    run: Run | str | Path, model: Program, guide: Program, objective: object, *args: Tensor
) -> None:
    """Puts a run's weights into a pair, and into the objective where it has such.

    Args:
        run: the run or its folder.
        model: the model.
        guide: the guide.
        objective: the objective; another one than the run's starts where it was.
        args: a batch both are run with once.

    Raises:
        ValueError: if the weights belong to another pair.
    """
    tensors = (run if isinstance(run, Run) else Run(run)).load_weights()
    own = state({"objective": objective}, {}) if isinstance(objective, nn.Module) else {}
    load(tensors, model, guide, objective if own.keys() <= tensors.keys() else None, *args)


@dataclass
class Frozen:
    """What a training leaves bit for bit as it is.

    Attributes:
        parameters: by id.
        modules: those that run in evaluation mode, so that their buffers stay.
    """

    parameters: set[int] = field(default_factory=set)
    modules: set[nn.Module] = field(default_factory=set)

    @classmethod
    def named(
        cls,
        patterns: str | Sequence[str],
        programs: Sequence[object],
        params: Mapping[str, Tensor],
    ) -> "Frozen":
        """What patterns name.

        Args:
            patterns: names of modules or parameters, such as `encoder` or `encoder.network.0`, or
                globs of them, such as `*.bias`; with or without `model.`, `guide.` or
                `objective.` before.
            programs: model, guide and objective.
            params: what model and guide ask Pyro's store for, by name.

        Raises:
            ValueError: for a pattern that names nothing, or if nothing is left to train.
        """
        patterns = (patterns,) if isinstance(patterns, str) else tuple(patterns)
        frozen, used = cls(), set[str]()

        def named(name: str, root: str = "") -> bool:
            names = (name, f"{root}.{name}") if name else (root,)
            found = {
                p for p in patterns for n in names if fnmatchcase(n, p) or fnmatchcase(n, f"{p}.*")
            }
            used.update(found)
            return bool(found)

        modules = modules_of(*programs)
        plain = {name.replace("$$$", "."): param for name, param in params.items()}
        frozen.parameters |= {id(param) for name, param in plain.items() if named(name)}
        for root, module in modules.items():
            frozen.parameters |= {id(p) for k, p in module.named_parameters() if named(k, root)}
            for key, part in module.named_modules():
                within = [f"{key}.{k}".lstrip(".") for k, _ in part.named_buffers(recurse=False)]
                if any([named(key, root), *(named(name, root) for name in within)]):
                    frozen.modules.add(part)
        for pattern in patterns:
            if pattern not in used:
                there = [name.split(".")[0] for name in plain]
                if pair := [m for root, m in modules.items() if root != "objective"]:
                    there = [name for module in pair for name, _ in module.named_children()]
                raise ValueError(
                    f"freeze names {pattern!r}, and there is no such module or parameter: there "
                    f"are {', '.join(dict.fromkeys(there))}, and what they hold"
                )
        every = {id(p) for module in modules.values() for p in module.parameters()}
        every |= {id(param) for param in params.values()}
        if patterns and not every - frozen.parameters:
            raise ValueError(f"freeze={[*patterns]} leaves nothing to train: leave a part out")
        return frozen


@contextmanager
def freezing(frozen: Frozen) -> Iterator[None]:
    """Runs in evaluation mode the modules all of whose parameters are frozen, and those named.

    A plain function does not say which modules it calls: each is looked at when it first runs.
    """
    if not frozen.parameters and not frozen.modules:
        yield
        return
    is_held: dict[nn.Module, bool] = dict.fromkeys(frozen.modules, True)
    switched: list[nn.Module] = []

    def switch(module: nn.Module, *_: object) -> None:
        if module not in is_held:
            ids = [id(p) for p in module.parameters()]
            is_held[module] = bool(ids) and frozen.parameters.issuperset(ids)
        if is_held[module]:
            for part in module.modules():
                if part.training:
                    part.training = False
                    switched.append(part)

    hook = register_module_forward_pre_hook(switch)
    try:
        yield
    finally:
        hook.remove()
        for part in switched:
            part.training = True
