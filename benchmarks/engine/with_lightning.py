"""Lightning's Trainer: with its defaults (bar, logger, checkpoint at each epoch), or with all of them off."""

import logging
import tempfile

import lightning
from held import Held
from loops import adamw, cosine, loader
from measure import Advance
from workloads import Workload

from pofx.randomness import stream
from pofx.train.loop import turns_of

OFF = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)


def lightning_loop(workload: Workload, *, defaults: bool) -> Advance:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    def run(tick):
        model = workload.model()
        clip = workload.settings(model).clip or None
        module = (Game if len(turns_of(model)) > 1 else Single)(model, workload, tick, defaults)
        with tempfile.TemporaryDirectory() as folder:
            trainer = lightning.Trainer(
                accelerator="cpu", max_epochs=-1, gradient_clip_val=clip, default_root_dir=folder,
                **({} if defaults else OFF),
            )  # fmt: skip
            trainer.fit(module, loader(workload))

    return Held(run).advance


class Single(lightning.LightningModule):
    """A loss, minimised."""

    def __init__(self, model, workload, tick, logs):
        super().__init__()
        self.model, self.turns, self.settings = model, turns_of(model), workload.settings(model)
        self.noise, self.tick, self.logs = stream(0, "noise"), tick, logs

    def training_step(self, batch, index):
        self.tick()
        loss = self.turns[0].loss(batch[0], generator=self.noise).total
        if self.logs:
            self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        optimiser = adamw(self.turns[0], self.settings)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": cosine(optimiser), "interval": "step"}}


class Game(Single):
    """A critic's batches, and a generator that moves on the last of them, optimised by hand."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.automatic_optimization = False

    def training_step(self, batch, index):
        critic_steps = self.turns[0].repeats
        if index % critic_steps == 0:
            self.tick()
        self.move(0, batch[0])
        if index % critic_steps == critic_steps - 1:
            self.move(1, batch[0])

    def move(self, player, x):
        optimiser = self.optimizers()[player]
        self.toggle_optimizer(optimiser)
        loss = self.turns[player].loss(x, generator=self.noise).total
        self.manual_backward(loss)
        optimiser.step()
        optimiser.zero_grad()
        self.untoggle_optimizer(optimiser)
        self.lr_schedulers()[player].step()
        if self.logs:
            self.log(f"loss_{player}", loss)

    def configure_optimizers(self):
        optimisers = [adamw(turn, self.settings) for turn in self.turns]
        return optimisers, [cosine(optimiser) for optimiser in optimisers]
