"""How weights start."""

from torch import nn


def init_linear(module: nn.Module) -> None:
    """Xavier-uniform weights and zero biases for linear layers (GViT paper, Appendix A); for ``Module.apply``."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
