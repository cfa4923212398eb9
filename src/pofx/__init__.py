"""pofx, "p of x": learn p(x) from your own data with every family of generative model, and find out which serves it.

>>> import pofx
>>> run = pofx.fit("vae", "mnist", budget="2m")       # doctest: +SKIP
>>> run.sample(64).save("sheet.png")                  # doctest: +SKIP
"""

import importlib
from typing import Any

__version__ = "0.1.0"

# Torch takes seconds to import, so nothing is imported until it is asked for.
_HOMES = {
    "fit": "pofx.fitting",
    "load": "pofx.runs",
    "resume": "pofx.fitting",
    "compare": "pofx.comparing",
    "models": "pofx.models",
    "datasets": "pofx.data",
    "recipes": "pofx.recipes",
}
__all__ = ["__version__", "compare", "datasets", "fit", "load", "models", "recipes", "resume"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'pofx' has no attribute {name!r}")
    module = importlib.import_module(_HOMES[name])
    return module if name in ("models", "datasets", "recipes") else getattr(module, name)
