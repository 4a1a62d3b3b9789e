"""Models and guides by description, and what is asked of them."""

import math
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from fuzz.inputs import Json
from ppl_vae import objectives
from ppl_vae.training import fit

__all__ = ["use_pair"]

SITE = {
    "law": "normal",
    "size": 2,
    "place": "data",
    "guide": "same",
    "scale": None,
    "masked": None,
}


def use_pair(value: Json) -> None:
    """Computes a loss, trains or evaluates. What a program gets wrong by itself is no fault."""
    sites = [{"name": f"y{k}", **SITE, **site} for k, site in enumerate(value.get("sites", []))]
    n = value.get("rows", 2)
    x = torch.randn(n, 3, generator=torch.Generator().manual_seed(0))
    if value.get("observed") == "nan":
        x[0, 0] = math.nan
    model, guide = _programs(sites, value)
    pyro.clear_param_store()
    try:
        pyro.poutine.trace(model).get_trace(x).compute_log_prob()
        pyro.poutine.trace(guide).get_trace(x).compute_log_prob()
    except Exception:
        return
    pyro.clear_param_store()
    text = value.get("objective", "BetaVAE(1.0)")
    made = eval(text, {name: getattr(objectives, name) for name in objectives.__all__})
    keywords = value.get("keywords", {})
    if keywords:
        made.plate = keywords["plate"]
    use = value.get("use", "loss")
    if use == "loss":
        made.loss(model, guide, x)
    elif use == "fit":
        quiet: dict[str, Any] = {"progress": False, "tensorboard": False}
        fit(model, guide, x, made, epochs=1, batch_size=2, **quiet)
    else:
        from ppl_vae.evaluation import nll

        nll(model, guide, x, 3)


def _programs(sites: list[Any], value: Json) -> tuple[Any, Any]:
    def law(kind: str, size: int, n: int | None, loc: Tensor) -> Any:
        shape = (() if n is None else (n,)) + ((size,) if size else ())
        at = loc.expand(shape)
        made: Any = {
            "normal": lambda: dist.Normal(at, 1.0),
            "lognormal": lambda: dist.LogNormal(at, 1.0),
            "bernoulli": lambda: dist.Bernoulli(logits=at),
            "categorical": lambda: dist.Categorical(logits=at.unsqueeze(-1).expand(*shape, 3)),
        }[kind]()
        return made.to_event(1) if size else made

    def sample(site: Any, x: Tensor, is_guide: bool, loc: Tensor) -> Any:
        kind, size, place = site["law"], site["size"], site["place"]
        how = site["guide"] if is_guide else "same"
        if how == "none":
            return None
        size = size + 1 if how == "size" else size
        kind = "normal" if how == "law" else kind
        place = "global" if how == "place" else place
        loc = loc.detach() if how == "detached" else loc
        n = None if place == "global" else len(x)
        fn = law(kind, size, n, loc)
        if site["scale"] is not None:
            with pyro.poutine.scale(scale=site["scale"]):
                return _placed(site, fn, x, place, value)
        return _placed(site, fn, x, place, value)

    def model(x: Tensor, *_: Any) -> None:
        w = pyro.param("w", torch.tensor(0.3))
        total: Any = 0.0
        for site in sites:
            z = sample(site, x, False, torch.tensor(0.0))
            total = total + z.float().sum() * 0 + w
        if value.get("observed") == "none":
            return
        with pyro.plate("data", len(x), subsample_size=_few(value, x)) as rows:
            pyro.sample("x", dist.Normal(total, 1.0).expand([3]).to_event(1), obs=x[rows])
            if value.get("observed") == "two":
                pyro.sample("x2", dist.Normal(w, 1.0), obs=x[rows, 0])

    def guide(x: Tensor, *_: Any) -> None:
        a = pyro.param("a", torch.tensor(0.1))
        for site in sites:
            sample(site, x, True, a)

    return model, guide


def _few(value: Json, x: Tensor) -> int | None:
    return max(1, len(x) // 2) if value.get("subsample") else None


def _placed(site: Any, fn: Any, x: Tensor, place: str, value: Json) -> Any:
    masked = site["masked"]
    if masked == "rows" and place != "global":
        fn = fn.mask(torch.arange(len(x)) > 0)
    elif isinstance(masked, bool):
        fn = fn.mask(masked)
    if place == "global":
        return pyro.sample(site["name"], fn)
    with pyro.plate("data" if place != "other" else "others", len(x)):
        return pyro.sample(site["name"], fn)
