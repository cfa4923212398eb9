"""Another data set as the law that a model maps from: ``fit(from_source=SOURCE)``, known again by its fingerprint."""

from functools import cached_property
from typing import Any

import torch
from torch import Generator, Tensor

from pofx import data as sources
from pofx.catalogue import Entry
from pofx.data.dataset import Data, Part
from pofx.domains import Domain, Vectors, in_words
from pofx.errors import Unusable
from pofx.protocols import Transports, capabilities
from pofx.randomness import rand

KINDS: dict[str, type | tuple[type, ...]] = dict.fromkeys(("source", "origin", "fingerprint"), str)


class Origin:
    """Draws rows of the training split of a source, which is read when first drawn from.

    So a run that maps from it is loaded, and maps whatever it is given, without it.

    Args:
        config: ``source`` as it was written, ``origin`` from any folder; ``fingerprint``, where it is known.
        seed: of the split.
    """

    def __init__(self, config: dict[str, Any], *, seed: int) -> None:
        self.config, self.seed = config, seed
        self._placed: dict[str, Part] = {}

    @cached_property
    def data(self) -> Data:
        """The source, loaded.

        Raises:
            Unusable: it is gone, or no longer what was mapped from.
        """
        data = sources.load(self.config["origin"], seed=self.seed)
        if data.fingerprint() != self.config.get("fingerprint", data.fingerprint()):
            raise Unusable(
                f"{self.config['source']} has changed since it was mapped from (its fingerprint differs); restore it, "
                "or fit again"
            )
        return data

    def sample(self, n: int, condition: Tensor | None = None, *, generator: Generator) -> Tensor:
        """n rows of the training split, drawn with replacement."""
        device = str(generator.device)
        part = self._placed.setdefault(device, self.data.train.to(device))
        place = rand((n,), generator=generator, device=device, dtype=torch.float64) * len(part)
        return part.take(place.long(), generator=generator)[0]


def recorded_origin(source: str, origin: str, entry: Entry, domain: Domain, *, seed: int) -> dict[str, str]:
    """What a configuration keeps of the source that a model of the catalogue is to map from.

    Args:
        source: as it was written.
        origin: the same from any folder.
        entry: the model.
        domain: of the target.
        seed: of the split.

    Raises:
        Unusable: the model maps from none, or from no such rows.
    """
    if Transports not in capabilities(entry.load()):
        raise Unusable(f"--from is for a model that maps one data set to another, got {entry.name}; fit w2-gan")
    given = {"source": source, "origin": origin}
    data = Origin(given, seed=seed).data
    if not isinstance(data.domain, Vectors) or data.domain.dims != domain.dims:
        raise Unusable(
            f"--from takes rows as wide as the target's, got {source} ({in_words(data.domain)}) for "
            f"{in_words(domain)}; choose the same columns of both"
        )
    return given | {"fingerprint": data.fingerprint()}
