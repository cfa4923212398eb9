"""Buffers whose size is known only once data have been seen: a stored training set, a table of counts."""

from typing import Any

from torch import Tensor, nn


def resizable(module: nn.Module, *names: str) -> None:
    """Lets ``load_state_dict`` give the named buffers of ``module`` the shape and dtype of what is loaded.

    Register the buffers first, empty; the device stays the module's.
    """

    def resize(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
        for name in names:
            loaded = state.get(prefix + name)
            if isinstance(loaded, Tensor):
                device = module.get_buffer(name).device
                setattr(module, name, loaded.new_empty(loaded.shape, device=device))

    module.register_load_state_dict_pre_hook(resize)
