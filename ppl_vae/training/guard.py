"""What is checked before and while a pair is trained: data against supports, finite numbers."""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer.util import zero_grads
from pyro.optim import PyroOptim
from torch import Tensor

from ppl_vae.data.checks import first_marked
from ppl_vae.pairs.pair import Pair, part_name
from ppl_vae.program.modules import Program, evaluating, modules_of
from ppl_vae.program.running import read
from ppl_vae.program.sites import Site
from ppl_vae.program.wrapping import distribution_name
from ppl_vae.training.grouped import Grouped

__all__ = ["NotFinite", "check_support", "first_bad_site"]


class NotFinite(FloatingPointError):
    """A loss term or a gradient was NaN or infinite; the optimiser has not acted on it."""


def check_support(
    model: Program,
    guide: Program,
    batch: Sequence[Tensor],
    rows: Tensor,
    extremes: Tensor | None = None,
    of_bytes: bool = False,
) -> None:
    """Holds observed values against the support of the distribution they are scored by.

    Args:
        model: the model.
        guide: the guide.
        batch: arguments both are run with once, in evaluation mode; torch's generator is left
            where it was.
        rows: all rows that `batch[0]` was taken from; they are checked where that is observed.
        extremes: rows of each element's extremes over a stream, of which `rows` are a few; they
            are checked where the support is one of each element.
        of_bytes: whether the rows are integers divided by 255.

    Raises:
        ValueError: naming the site, its distribution and the first value outside.
    """
    with (
        torch.random.fork_rng(),
        torch.no_grad(),
        evaluating(model, guide),
        pyro.validation_enabled(False),
    ):
        reading = read(model, guide, batch, check_shapes=True, complete=False)
    for name, site in reading.model_sites.items():
        value, support = site.value, getattr(site.fn, "support", None)
        if site.role != "observed" or support is None or site.mask is not None:
            continue
        # the whole of the data, where this site observes it
        is_data = value is batch[0] and value.shape[1:] == rows.shape[1:]
        value = rows if is_data else value
        with suppress(NotImplementedError):  # dependent supports
            base = getattr(support, "base_constraint", support)
            if is_data and extremes is not None and not base.event_dim:
                value = torch.cat([value, extremes])
            inside = support.check(value)
            if not inside.all():
                # per row when an event has several elements: name the row's first offender
                outside = ~base.check(value)
                number, place = first_marked(value, outside if outside.any() else ~inside)
                raise ValueError(
                    f"site {name!r} is {name_at(model, site)} with support "
                    f"{base}, which excludes the data: {place} is {number:g}; "
                    f"{_remedy(base, value, is_data and of_bytes)}"
                )


def _remedy(support: Any, value: Tensor, of_bytes: bool) -> str:
    """What brings values into a support: no scale makes 0.5 a yes or a count."""
    if not support.is_discrete:
        return "rescale the data (normalise= does) or choose another likelihood"
    if of_bytes and support.check((255 * value).round()).all():
        return (
            'bytes of images were divided by 255, so give normalise="none" '
            "(--data.normalise none) if they are counts, or choose another likelihood"
        )
    if support is constraints.boolean and ((value >= 0) & (value <= 1)).all():
        return (
            "draw them as Binarized does (--data Binarized --data.data CLASS), or choose another "
            "likelihood"
        )
    return "choose another likelihood"


def name_at(program: Program, site: Site, of_guide: bool = False) -> str:
    """What a site is drawn from: the part, where the program is a `Pair`'s, or a distribution."""
    pair = next(iter(modules_of(program).values()), None)
    if isinstance(pair, Pair):
        return part_name(pair.part(site.name, of_guide))
    return distribution_name(site.fn)


def first_bad_site(model: Program, guide: Program, batch: Sequence[Any]) -> str | None:
    """The first place, guide before model, where a run on `batch` is not finite; None if none.

    Looked at, in the order of execution, are parameters, the parameters of each site's
    distribution, its value and its log-probability.
    """
    with torch.no_grad(), pyro.validation_enabled(False):
        traced = poutine.trace(guide)
        with suppress(Exception):  # whatever stopped it, the sites before tell
            traced(*batch)
        found = _first_bad(traced.trace, "guide")
        if found is not None:
            return found
        replayed = poutine.trace(poutine.replay(model, trace=traced.trace))
        with suppress(Exception):
            replayed(*batch)
        return _first_bad(replayed.trace, "model")


def _first_bad(trace: poutine.Trace, part: str) -> str | None:
    for name, site in trace.nodes.items():
        if site["type"] == "param" and _bad(site["value"]):
            return f"parameter {name!r}"
        if site["type"] != "sample" or _is_subsample(site):
            continue
        where = f"site {name!r} of the {part}"
        inner = getattr(site["fn"], "base_dist", site["fn"])
        for key in getattr(inner, "arg_constraints", {}):
            if key in vars(inner) and _bad(vars(inner)[key]):
                return f"{where} ({key} of its distribution)"
        if _bad(site["value"]):
            return f"{where} (its value)"
        with suppress(Exception):
            if _bad(site["fn"].log_prob(site["value"])):
                return f"{where} (its log-probability)"
    return None


def _is_subsample(site: dict[str, Any]) -> bool:
    return type(site["fn"]).__name__ == "_Subsample"


def _bad(x: object) -> bool:
    return isinstance(x, Tensor) and not bool(torch.isfinite(x).all())


class OutOfMemory(torch.OutOfMemoryError):
    """The memory of GPU or machine does not hold what was asked for; it says what to lower."""


@contextmanager
def memory_said(what: str, lower: str) -> Iterator[None]:
    """Says of a lack of memory what to lower.

    Args:
        what: is made inside.
        lower: what makes it large.

    Raises:
        OutOfMemory: wherever the memory is.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, OutOfMemory) or not lacks_memory(error):
            raise
        asked = re.search(r"allocate (?:([\d.]+ ?[KMGT]?i?B)|(\d+) bytes)", str(error))
        size = ""
        if asked is not None:
            size = f" ({asked[1] or f'{int(asked[2]) / 2**30:,.1f} GiB'} more were asked for)"
        where = "the GPU's" if isinstance(error, torch.OutOfMemoryError) else "the machine's"
        raise OutOfMemory(f"{where} memory does not hold {what}{size}: lower {lower}") from error


def lacks_memory(error: BaseException) -> bool:
    """Whether an error is of a lack of memory, of the GPU or of the machine."""
    said = ("can't allocate memory", "not enough memory", "Cannot allocate memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in said)
    )


class GuardedOptimizer(PyroOptim):
    """An optimiser that acts only on finite gradients.

    Args:
        inner: the optimiser.
        but: the parameters that it may not move, by `id`.
        before: called once the gradients are found finite, before any parameter moves.
    """

    def __init__(
        self,
        inner: PyroOptim,
        but: Collection[int] = (),
        before: Callable[[], None] = lambda: None,
    ) -> None:
        # no super().__init__: `inner` holds all there is
        self.inner, self.but, self.before = Grouped(inner), but, before

    def __call__(self, params: Iterable[Tensor], *_: Any, **__: Any) -> None:
        params = [p for p in params if id(p) not in self.but]
        check_gradients(params)
        self.before()
        self.inner(params)


def check_gradients(params: Collection[Tensor]) -> None:
    """Raises NotFinite naming the first parameter, by name, whose gradient is NaN or infinite.

    It synchronises with the device once.
    """
    grads = [p.grad for p in params if p.grad is not None]
    if not grads or torch.isfinite(torch.stack(_norms(grads)).sum()):
        return
    # the norm of large finite numbers may overflow: only now look at each
    names = pyro.get_param_store().param_name
    bad = sorted(names(p) for p in params if _bad(p.grad))
    if bad:
        zero_grads(params)
        raise NotFinite(f"the gradient of parameter {bad[0].replace('$$$', '.')!r} is not finite")


def _norms(grads: list[Tensor]) -> list[Tensor]:
    norms = torch._foreach_norm(grads)
    return [n.to(norms[0].dtype) for n in norms]
