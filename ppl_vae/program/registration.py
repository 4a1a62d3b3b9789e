"""Registering a module's parameters with Pyro's parameter store, safely.

`pyro.module` keyed by a fixed name leaves a second module of that name untrained: the store keeps
the first module's tensors and the optimiser moves those. `register` gives each module a name of
its own.
"""

from itertools import count

import pyro
from pyro.params import param_with_module_name
from torch import nn

__all__ = ["register"]


def register(module: nn.Module) -> str:
    """Registers the trainable parameters of `module` and returns the name they stand under.

    The name is the class's, or the first of `VAE_2`, `VAE_3`, ... whose stored tensors, if any,
    are the module's own. Frozen parameters are left out. Calling it again is free of effect, so
    models and guides call it each time they run.

    Args:
        module: the module whose parameters `pyro.infer.SVI` shall train.

    Raises:
        ValueError: if the store keeps a copy instead of the module's tensor, as it does for one
            that is not contiguous (a convolution in `channels_last` format): the copy would be
            trained and the module would not.
    """
    own = dict(module.named_parameters())
    trained = {key: parameter for key, parameter in own.items() if parameter.requires_grad}
    for key, parameter in trained.items():
        if not parameter.is_contiguous():  # before anything is stored, so that it can be put right
            raise _copied(module, key)
    if not trained:
        return type(module).__name__
    store = pyro.get_param_store()
    for k in count(1):
        name = type(module).__name__ if k == 1 else f"{type(module).__name__}_{k}"
        prefix = param_with_module_name(name, "")
        taken = [key for key in store if key.startswith(prefix)]
        if all(_is_own(store, key, own.get(key[len(prefix) :])) for key in taken):
            break
    for key, parameter in trained.items():
        full = param_with_module_name(name, key)
        pyro.param(full, parameter)
        if not _is_own(store, full, parameter):
            raise _copied(module, key)
    return name


def _copied(module: nn.Module, key: str) -> ValueError:
    return ValueError(
        f"parameter {key!r} of {type(module).__name__} is stored by Pyro as a copy and would not "
        "be trained: make it contiguous (module.to(memory_format=torch.contiguous_format)) "
        "before the first step"
    )


def _is_own(store: pyro.params.param_store.ParamStoreDict, key: str, parameter: object) -> bool:
    return store[key].unconstrained() is parameter
