"""What the sites of a pair are where several processes have the rows."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import pyro
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from ppl_vae.program.modules import Program, evaluating, modules_of
from ppl_vae.program.norms import part_norms, share_norms
from ppl_vae.program.plates import NoDataPlate, PlateName
from ppl_vae.program.reading import Reading
from ppl_vae.program.running import read
from ppl_vae.world import Processes, by_itself

__all__ = ["Alike", "Met", "batch_plate", "meet", "spread"]


def batch_plate(reading: Reading, plate: PlateName | None = None) -> str:
    """The plate whose entries are split among processes.

    It is the data plate. Of several that are pooled it is the one as long as the first argument,
    or else the first; where no latent site stands in one, it is the plate of what is observed.

    Raises:
        NoDataPlate: if several plates could be the data's, or none is.
    """
    try:
        plates: Sequence[str] = reading.plates(plate)
    except NoDataPlate:
        sites = [reading.model_sites[name] for name in reading.observed]
        holding = [site.dims.keys() for site in sites if site.dims]
        plates = sorted(set(holding[0]).intersection(*holding)) if holding else []
        if reading.candidates or len(plates) != 1:
            raise
    if len(plates) == 1:
        return plates[0]
    rows = next((len(a) for a in reading.args if hasattr(a, "__len__")), -1)
    site = reading.guide_sites[reading.latent[0]]
    long = [p for p in plates if (held := site.plate(p)) is not None and held.size == rows]
    return (long or plates)[0]


def spread(reading: Reading, world: Processes, plate: PlateName | None = None) -> Reading:
    """Scales the sites of a run so that the densities of all processes add up to those of one.

    What is outside the batch's plate is in the run of each process, and counts by its share. A
    plate that is subsampled stands for all data in each: its scale N / n becomes N over the rows
    of all.
    """
    name = batch_plate(reading, plate)
    sites = [*reading.guide_sites.values(), *reading.model_sites.values()]
    held = next(p for site in sites if (p := site.plate(name)) is not None)
    marks = world.counts(2 * held.size + (held.full_size != held.size))
    subsampled = any(mark % 2 for mark in marks)
    share = held.size / sum(mark // 2 for mark in marks) if subsampled else 1.0
    for site in sites:
        if site.plate(name) is None:
            site.scale = site.scale / world.size
        elif subsampled:
            site.scale = site.scale * share
            site.plates = tuple(
                replace(p, full_size=p.full_size * share) if p.name == name else p
                for p in site.plates
            )
    reading.forget_rows()
    return reading


@dataclass(frozen=True)
class Met:
    """A pair that all processes have from the first.

    Attributes:
        plate: the plate that is split among processes.
        params: what stood in Pyro's store.
    """

    plate: str
    params: Mapping[str, Tensor]

    @property
    def holds(self) -> bool:
        """Whether the store has these parameters and no others."""
        stored = dict(pyro.get_param_store().named_parameters())
        same = all(stored[name] is p for name, p in self.params.items() if name in stored)
        return same and stored.keys() == self.params.keys()


def meet(
    world: Processes,
    model: Program,
    guide: Program,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    plate: PlateName | None = None,
    own: Iterable[nn.Module] = (),
    local: Iterable[nn.Module] = (),
) -> Met:
    """Prepares a pair for several processes, by a run of it that moves nothing.

    Parameters that are made from data, and buffers, get the values they have in the first
    process; batch norms that meet a process's own rows take the moments of all; and what is drawn
    is another in each process from here on.

    Args:
        world: the processes.
        model: the model.
        guide: the guide.
        args: their positional arguments.
        kwargs: their keyword arguments.
        plate: the data plate, where the rule leaves a choice.
        own: modules whose parameters and buffers go with the pair's.
        local: those of them that meet a process's own rows.

    Returns:
        What holds until the store has other parameters.
    """
    called: dict[nn.Module, None] = {}
    hook = register_module_forward_pre_hook(lambda module, _: called.setdefault(module))
    try:
        with (
            by_itself(),
            torch.random.fork_rng(),
            torch.no_grad(),
            evaluating(model, guide),
            pyro.validation_enabled(False),
        ):
            reading = read(model, guide, args, kwargs, complete=False)
    finally:
        hook.remove()
    found = batch_plate(reading, plate)
    behind = modules_of(model, guide).values()
    within = {part: None for module in (*behind, *called) for part in module.modules()}
    changed = share_norms([*within, *local])
    world.on_leaving(lambda: part_norms(changed))
    modules = [*within, *own]
    stored = sorted(pyro.get_param_store().named_parameters())
    world.agree([name for name, _ in stored])
    tensors: list[Tensor] = [tensor for _, tensor in stored]
    for module in modules:
        tensors += [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    world.adopt([*{id(t): t for t in tensors}.values()])
    world.apart()
    return Met(found, dict(stored))


class Alike(Messenger):
    """Draws sites outside a plate from a stream that all processes share.

    Args:
        alike: opens the context in which all draw the same.
        plate: the plate of the rows.
    """

    def __init__(self, alike: Callable[[], Any], plate: str) -> None:
        super().__init__()
        self._alike, self._plate = alike, plate
        self._open = ExitStack()

    def _pyro_sample(self, msg: Any) -> None:
        drawn = msg["value"] is None and not msg["is_observed"] and not site_is_subsample(msg)
        if drawn and not any(frame.name == self._plate for frame in msg["cond_indep_stack"]):
            # The draw itself comes once all handlers have seen the site.
            self._open.enter_context(self._alike())

    def _pyro_post_sample(self, msg: Any) -> None:
        self._open.close()

    def __exit__(self, *error: Any) -> Any:
        self._open.close()
        return super().__exit__(*error)
