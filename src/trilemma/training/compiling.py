"""Networks compiled for training, but for the calls that a compiler cannot serve."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from trilemma.errors import ConfigError

__all__ = ["compile_network", "uncover"]


def compile_network(network: nn.Module) -> None:
    """Compile the forward pass, but for calls that are differentiated with respect to data.

    A compiled pass has no second derivative, which the gradient of a gradient penalty needs.
    """
    plain = network.forward
    compiled = torch.compile(plain)

    def forward(*args: Any, **kwargs: Any) -> Any:
        if any(_is_leaf_data(value) for value in (*args, *kwargs.values())):
            return plain(*args, **kwargs)
        try:
            return compiled(*args, **kwargs)
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = str(error).strip().splitlines()[0]
            raise ConfigError(
                f"{type(network).__name__} does not compile here ({reason}): train with "
                "--trainer.compile false"
            ) from error

    network.forward = forward


def _is_leaf_data(value: Any) -> bool:
    """Whether a value is, up to views and casts, a leaf with gradient that is no weight."""
    if not isinstance(value, Tensor) or not value.requires_grad:
        return False
    node = value.grad_fn
    while node is not None and len(node.next_functions) == 1:
        node = node.next_functions[0][0]
    source = value if value.grad_fn is None else getattr(node, "variable", None)
    return source is not None and not isinstance(source, nn.Parameter)


def uncover(network: nn.Module) -> None:
    """Give a network its own forward pass back, neither compiled nor in half precision."""
    for name in ("forward", "_original_forward"):
        vars(network).pop(name, None)
