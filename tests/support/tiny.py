"""Trainers of the tiny form of every model that is trained."""

from typing import Any

from pofx.catalogue import entries
from pofx.data.dataset import Rows
from pofx.protocols import Adapts, capabilities
from pofx.randomness import seeded_init, stream
from pofx.testing import TINY, TWO_CLASSES
from pofx.testing.specimens import tiny_data
from pofx.train.loop import Trainer
from pofx.train.settings import settings_from

TRAINED = [(e.name, kind) for e in entries().values() for kind in e.tiny if e.family != "baselines"]


def tiny_trainer(name: str, kind: str, **settings: Any) -> Trainer:
    """A trainer of a model's tiny form, given classes, by the model's own recipe under ``settings``."""
    entry, domain = entries()[name], TINY[kind][0]
    x, c = tiny_data(domain, TWO_CLASSES)
    with seeded_init(0):
        model = entry.build(domain, condition=TWO_CLASSES, **entry.tiny[kind])
    if Adapts in capabilities(model):
        model.adapt(x, c, generator=stream(0, "adapt"))
    chosen = settings_from(getattr(model, "recipe", {}), {"batch_size": 8, "steps": 30, **settings})
    return Trainer(model.train(), Rows(x, c), chosen, planned=30, seed=1)
