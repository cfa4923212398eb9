"""A run that was fitted on the activations of another: which run and layer, and a source as it is read through them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pofx.data.activations import activations
from pofx.data.dataset import Data
from pofx.errors import Unusable
from pofx.evaluate.pace import Clock, Watch
from pofx.evaluate.recovery import recovered_scores
from pofx.evaluate.score import Score
from pofx.nn.layer import Layer


@dataclass(frozen=True)
class Reading:
    """A run whose model is looked into, and the path of a module of it; "": its ``features``."""

    run: Any
    layer: str

    @property
    def written(self) -> str:
        """RUN:layer, from any folder."""
        return f"{self.run.folder.resolve()}:{self.layer}".removesuffix(":")

    @property
    def identity(self) -> str:
        """Of the run, its weights included."""
        return self.run.identity.hex()

    def source(self, source: str, *, condition: str = "none", **options: Any) -> Data:
        """The activations over a source, which is split and encoded as it was for the run: what the run has not seen
        is not trained on here either.

        Args:
            source: as for ``load``.
            condition: that the activations are to have.
            options: of the source, over those of the run.
        """
        data = self._observations(source, condition, options)
        model, identity, seed = self.run.model, self.identity, self.run.config["data_seed"]
        return activations(model, self.layer, data, given=condition != "none", identity=identity, seed=seed)

    def recovered(
        self,
        autoencoder: Any,
        source: str,
        options: dict[str, Any],
        *,
        split: str,
        clock: Clock,
        seed: int,
        watch: Watch,
    ) -> list[Score]:
        """How much of the run's likelihood is left where the layer is reconstructed by an autoencoder of it."""
        data = self._observations(source, options.get("condition", "none"), options)
        layer = Layer(self.run.model, self.layer)
        return recovered_scores(layer, autoencoder, data, split=split, clock=clock, seed=seed, watch=watch)

    def _observations(self, source: str, condition: str, options: dict[str, Any]) -> Data:
        """What the run's model reads."""
        run, theirs = self.run, self.run.config["source_options"]
        own = theirs.get("condition", "none")
        if condition != "none" and own not in ("none", condition):
            raise Unusable(f"{run.folder} was fitted with --condition {own}, got {condition}; give the same, or none")
        given = {name: value for name, value in options.items() if name != "condition" and value is not None}
        wanted = theirs | given | {"condition": own if condition == "none" else condition}
        data = run.read(source, seed=run.config["data_seed"], **wanted)
        if data.domain != run.domain:
            raise Unusable(
                f"{source} is of another shape, alphabet or palette than {run.folder} was fitted on, whose layer is to "
                "be read; give data of the same kind"
            )
        return data


def named(text: str) -> tuple[str, str]:
    """RUN:layer to the run's folder and the layer; without a layer "".

    >>> named("runs/gpt-book:trunk.blocks.1"), named("runs/vae-digits")
    (('runs/gpt-book', 'trunk.blocks.1'), ('runs/vae-digits', ''))
    """
    folder, colon, layer = text.rpartition(":")
    return (text, "") if not colon or Path(text).is_dir() else (folder, layer)
