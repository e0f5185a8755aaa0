"""Muon (Jordan et al. 2024): momentum with orthogonalized updates. Matrices of one shape are batched, for speed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class Muon(torch.optim.Optimizer):  # type: ignore[misc]
    """Optimizer for weight matrices.

    The update's root mean square is AdamW's usual one, so that both can share a learning rate.
    """

    def __init__(
        self, weights: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.01
    ) -> None:
        super().__init__(weights, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def step(self, closure: Any = None) -> None:
        """Update every weight that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for weight in group["params"]:
                if weight.grad is not None:
                    by_shape.setdefault(weight.shape, []).append(weight)
            for shape, weights in by_shape.items():
                gradients = [weight.grad for weight in weights]
                for weight in weights:
                    if "momentum" not in self.state[weight]:
                        self.state[weight]["momentum"] = torch.zeros_like(weight)
                momenta = [self.state[weight]["momentum"] for weight in weights]
                torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
                updates = torch.stack(torch._foreach_lerp(gradients, momenta, group["momentum"]))
                scale = 0.2 * max(shape) ** 0.5
                torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(weights, orthogonal(updates).float().unbind(), alpha=-group["lr"] * scale)


def orthogonal(matrices: Tensor, iterations: int = 5) -> Tensor:
    """Move singular values of (matrices, rows, columns) towards 1 by a quintic Newton-Schulz iteration, in bf16."""
    if matrices.shape[-2] > matrices.shape[-1]:
        return orthogonal(matrices.mT, iterations).mT
    x = (matrices / (matrices.norm(dim=(-2, -1), keepdim=True) + 1e-7)).bfloat16()
    for _ in range(iterations):
        square = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return x
