"""Ways through the space of codes."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

__all__ = ["along", "between"]


def between(
    start: Tensor, end: Tensor, steps: int, path: Literal["line", "arc"] = "line"
) -> Tensor:
    r"""Points from codes to codes, both ends among them.

    On a line $(1 - t) a + t b$; on an arc, with $\theta$ the angle between a and b,

    $$\frac{\sin((1 - t) \theta)}{\sin \theta} a + \frac{\sin(t \theta)}{\sin \theta} b.$$

    Args:
        start: codes a, `(n, d)`.
        end: codes b, `(n, d)`.
        steps: how many points.
        path: a line, or an arc around the origin; a line where a and b have one direction.

    Returns:
        `(n, steps, d)`.

    References:
        Shoemake (1985), Animating rotation with quaternion curves, SIGGRAPH.
    """
    if steps < 2:
        raise ValueError(f"steps={steps}: a way has 2 points or more")
    if path not in ("line", "arc"):
        raise ValueError(f"path={path!r} is neither 'line' nor 'arc'")
    t = torch.linspace(0, 1, steps, dtype=start.dtype, device=start.device)[:, None]
    a, b = start[:, None], end[:, None]
    line = (1 - t) * a + t * b
    if path == "line":
        return line
    cosine = torch.nn.functional.cosine_similarity(a, b, dim=-1)[..., None].clamp(-1, 1)
    angle = cosine.acos()
    sine = angle.sin()
    arc = (((1 - t) * angle).sin() * a + (t * angle).sin() * b) / sine
    return torch.where(sine > 1e-4, arc, line)


def along(codes: Tensor, values: Sequence[float], dims: Sequence[int] | None = None) -> Tensor:
    """Codes with one coordinate set to values in turn.

    Args:
        codes: `(n, d)`.
        values: m of them.
        dims: the coordinates that move; all by default.

    Returns:
        `(n, dims, m, d)`.
    """
    d = codes.shape[1]
    dims = [*range(d)] if dims is None else [*dims]
    wrong = [j for j in dims if not -d <= j < d]
    if wrong or not dims:
        raise ValueError(f"dims={dims}: codes have coordinates 0 to {d - 1}")
    at = codes.new_tensor([*values])
    moved = codes[:, None, None].repeat(1, len(dims), len(at), 1)
    for i, j in enumerate(dims):
        moved[:, i, :, j] = at
    return moved
