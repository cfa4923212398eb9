"""A loop of one's own around Accelerate's ``prepare`` and ``backward``."""

from accelerate import Accelerator
from loops import adamw, advancing, cosine, loader
from measure import Advance
from workloads import Workload

from pofx.randomness import stream
from pofx.train.loop import turns_of


def accelerate_loop(workload: Workload) -> Advance:
    accelerator, model, noise = Accelerator(cpu=True), workload.model(), stream(0, "noise")
    turns, clip = turns_of(model), workload.settings(model).clip
    plain = [adamw(turn, workload.settings(model)) for turn in turns]
    optimisers = [accelerator.prepare(optimiser) for optimiser in plain]
    schedules = [accelerator.prepare(cosine(optimiser)) for optimiser in plain]
    model, batches = accelerator.prepare(model, loader(workload))

    def move(player, x):
        loss = turns[player].loss(x, generator=noise).total
        accelerator.backward(loss)
        if clip:
            accelerator.clip_grad_norm_(turns[player].parameters, clip)
        optimisers[player].step()
        schedules[player].step()
        for optimiser in optimisers:  # the generator's loss leaves gradients in the critic too
            optimiser.zero_grad()
        return loss.detach()

    def rounds():
        repeats = turns[0].repeats
        while True:
            for index, (x,) in enumerate(batches):
                loss = move(0, x)
                if index % repeats == repeats - 1:
                    yield move(1, x) if len(turns) > 1 else loss

    return advancing(rounds())
