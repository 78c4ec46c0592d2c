"""Training runs in processes of their own, which tests kill or start in pairs; see test_training_resume.py.

A run prints each step before it happens, so that whoever watches knows when to kill it.
"""

from __future__ import annotations

import contextlib
import random
import sys
import time
from pathlib import Path

import torch
from torch.utils.data import DataLoader, TensorDataset

from seqcourse.data.batching import BucketedBatches, language_model_batches
from seqcourse.models import LanguageModel, StreamLoss, TextClassifier
from seqcourse.runtime import seed_everything
from seqcourse.schedules import WarmupCosine
from seqcourse.training import fit

VOCABULARY, EXAMPLES = 11, 40


def examples() -> list[tuple[torch.Tensor, int]]:
    """Sequences of 3 to 9 tokens; the label says whether the first token is a low one."""
    generator = torch.Generator().manual_seed(5)
    made = []
    for i in range(EXAMPLES):
        tokens = torch.randint(1, VOCABULARY, (3 + i % 7,), generator=generator)
        made.append((tokens, int(tokens[0] < 6)))
    return made


def shuffled_loader() -> DataLoader:
    """A DataLoader that shuffles by torch's global generator, over rectangular data."""
    tokens = torch.stack([torch.cat([t, t, t])[:9] for t, _ in examples()])
    labels = torch.tensor([label for _, label in examples()])
    return DataLoader(TensorDataset(tokens, labels), batch_size=6, shuffle=True)


def streams():
    """Contiguous streams for a language model that carries its state from batch to batch."""
    ids = torch.randint(0, VOCABULARY, (300,), generator=torch.Generator().manual_seed(6))
    return language_model_batches(ids, batch_size=4, length=7)


def setup(kind: str):
    """Return model, batches, loss and validation batches of one kind of run."""
    if kind == "streams":
        model = LanguageModel(VOCABULARY, 6, 8, "gru", num_layers=2, dropout=0.3)
        return model, streams(), StreamLoss(), streams()
    dropout = 0.0 if kind == "plain" else 0.3
    model = TextClassifier(VOCABULARY, 6, 8, dropout=dropout, num_layers=2, pooling="max")
    bucketed = BucketedBatches(examples(), batch_size=6, seed=3, pool=2)
    return model, shuffled_loader() if kind == "loader" else bucketed, TextClassifier.loss, bucketed


class Stopped(Exception):
    """What a run ends with that is told to stop before a step."""


class Announced:
    """A loss that draws from Python's generator; with a pause it prints each step and takes its time."""

    def __init__(self, loss, pause: float, stop_before: int | None) -> None:
        self.loss, self.pause, self.noise, self.left = loss, pause, 0.0, stop_before

    def __call__(self, model, batch):
        if model.training:
            self.left = self.left and self.left - 1
            if self.left == 0:
                raise Stopped
            if self.pause:
                print("step", flush=True)
                time.sleep(self.pause)
            self.noise = 0.01 * random.random()  # who loses Python's generator ends elsewhere
        return self.loss(model, batch) * (1 + self.noise)

    def state_dict(self):
        return self.loss.state_dict() if isinstance(self.loss, StreamLoss) else {}

    def load_state_dict(self, state):
        if isinstance(self.loss, StreamLoss):
            self.loss.load_state_dict(state)


def train(
    kind: str, checkpoint: str | None, max_steps: int, pause: float = 0.0, stop_before=None, engine=None
):
    """Train with everything that a checkpoint has to keep, and return the final weights and the history."""
    seed_everything(1)
    model, batches, loss, validation = setup(kind)
    history = fit(
        model,
        batches,
        loss=Announced(loss, pause, stop_before),
        max_steps=max_steps,
        optimiser=torch.optim.AdamW(model.parameters(), lr=0.02),
        schedule=WarmupCosine(total=40, warmup=5),
        clip=0.5,
        validate=validation,
        patience=50,
        checkpoint=checkpoint,
        checkpoint_every=3,
        device="cpu" if engine is None else "auto",
        seed=7,
        engine=engine,
    )
    return {"model": model.state_dict(), "history": history.to_dict()}


def train_in_two_processes(folder: Path) -> None:
    """Train in step with another process: without dropout; with it; with it, stopped and resumed."""
    from lightning_fabric import Fabric

    engine = Fabric(accelerator="cpu", devices=2, strategy="ddp")
    engine.launch()
    outcomes = {
        "plain": train("plain", None, 12, engine=engine),
        "whole": train("streams", None, 17, engine=engine),
    }
    checkpoint = str(folder / "checkpoint.pt")
    with contextlib.suppress(Stopped):
        train("streams", checkpoint, 17, stop_before=8, engine=engine)
    outcomes["resumed"] = train("streams", checkpoint, 17, engine=engine)
    if engine.is_global_zero:
        torch.save(outcomes, folder / "outcomes.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] == "distributed":
        train_in_two_processes(Path(sys.argv[2]))
    else:
        kind, checkpoint, result, pause = sys.argv[1:]
        torch.save(train(kind, checkpoint, 40, float(pause)), result)
