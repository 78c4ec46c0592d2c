"""Checkpoints that allow an exact resume: a run killed and resumed ends with the same bits.

Besides weights and optimiser this takes the state of every random generator and the position in the data.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import random
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from seqcourse.engine import Engine, map_tensors, plugin_of, tensors_of
from seqcourse.runtime import seed_everything

FORMAT = 1


class CheckpointCorrupt(RuntimeError):
    """The checkpoint file is damaged or is no checkpoint of ours."""


class CheckpointMismatch(RuntimeError):
    """The checkpoint is sound, but belongs to a run with other settings."""


def write_checkpoint(path: Path, state: dict[str, Any], engine: Engine) -> None:
    """Write beside ``path``, from process 0, then rename: ``path`` is always a whole file."""
    if engine.is_global_zero:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(path.name + ".writing")
        with beside.open("wb") as file:
            torch.save({"format": FORMAT, **state}, file)
            file.flush()
            os.fsync(file.fileno())  # the bytes reach the disk before the name does, also if the power fails
        os.replace(beside, path)
    engine.barrier()


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint to the CPU: tensors and plain Python values only, so no code in the file can run.

    Raises:
        CheckpointCorrupt: if the file is damaged (each part's check sum is verified) or something else.
    """
    advice = (
        f"{path} cannot be resumed from: {{}}. Delete it to start anew, or pass resume=False to overwrite it."
    )
    try:
        with zipfile.ZipFile(path) as archive:  # what torch.save writes; torch.load itself checks no sums
            damaged = archive.testzip()
        if damaged is not None:
            raise CheckpointCorrupt(advice.format(f"its part {damaged} fails its check sum"))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (
        zipfile.BadZipFile,
        zipfile.LargeZipFile,
        EOFError,
        RuntimeError,
        pickle.UnpicklingError,
    ) as error:
        if isinstance(error, CheckpointCorrupt):
            raise
        raise CheckpointCorrupt(advice.format(f"it is damaged or no checkpoint ({error})")) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointCorrupt(
            advice.format("it is a torch file, but no checkpoint of seqcourse.training.fit")
        )
    return state


def check_same_run(path: Path, saved: dict[str, Any], current: dict[str, Any]) -> None:
    """Compare the settings in a checkpoint with those of this run.

    Raises:
        CheckpointMismatch: if they differ; names each difference.
    """
    differing = [key for key in {**saved, **current} if saved.get(key) != current.get(key)]
    if differing:
        lines = [
            f"  {key}: checkpoint {_short(saved.get(key))}, now {_short(current.get(key))}"
            for key in differing
        ]
        raise CheckpointMismatch(
            f"{path} belongs to another run:\n" + "\n".join(lines) + "\n"
            "Use the same settings, another checkpoint path, or resume=False to overwrite it."
        )


def _short(value: Any, limit: int = 300) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[:limit] + " ..."


def describe_model(model: nn.Module) -> dict[str, Any]:
    """Describe what weights must fit: the modules with their options, and the shapes of the parameters."""
    return {"model": str(model), "shapes": {name: list(p.shape) for name, p in model.named_parameters()}}


def describe_optimiser(optimiser: torch.optim.Optimizer) -> list[Any]:
    """Describe an optimiser: its kind and the options of each group, with the learning rate at the start."""
    groups = [
        {name: str(v) for name, v in sorted(group.items()) if name not in ("params", "lr")}
        for group in optimiser.param_groups
    ]
    return [getattr(optimiser, "optimiser", optimiser).__class__.__name__.removeprefix("Fabric"), groups]


def random_states() -> dict[str, Any]:
    """Take down the state of all global random generators: Python, NumPy, torch, and the GPUs if used."""
    kind, keys, *rest = np.random.get_state()
    states = {
        "python": random.getstate(),
        "numpy": (kind, keys.tolist(), *rest),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state_all()
    if torch.backends.mps.is_available():
        states["mps"] = torch.mps.get_rng_state()
    return states


def set_random_states(states: dict[str, Any]) -> None:
    """Put every generator back to where :func:`random_states` found it."""
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    np.random.set_state(tuple(states["numpy"]))
    torch.set_rng_state(states["torch"])
    if "cuda" in states:
        torch.cuda.set_rng_state_all(states["cuda"])
    if "mps" in states:
        torch.mps.set_rng_state(states["mps"])


def gather(engine: Engine, value: Any) -> list[Any]:
    """Collect one value from each process, in the order of their ranks."""
    if engine.world_size == 1:
        return [value]
    collected: list[Any] = [None] * engine.world_size
    torch.distributed.all_gather_object(collected, value)
    return collected


@dataclass
class DataPosition:
    """How far a run has come in its data, and how to get there again.

    The order of an epoch depends on seed and epoch only. So a resumed run starts the epoch again and skips
    what it had.
    """

    batches: Iterable[Any]
    seed: int
    epoch: int = 0
    batch: int = 0
    last: Any = None

    @property
    def length(self) -> int | None:
        """Batches per epoch, where that is known beforehand."""
        return len(self.batches) if hasattr(self.batches, "__len__") else None

    def rest_of_epoch(self, resumed: dict[str, Any] | None = None) -> Iterator[Any]:
        """Yield the batches of this epoch that are still to come; ``resumed`` is the checkpoint's data state.

        Raises:
            ValueError: if an epoch has no batches.
            CheckpointMismatch: if the batch before the position is not the one that the checkpoint saw.
        """
        start_epoch(self.batches, self.seed, self.epoch)
        seen = max(self.batch - 1, 0)  # the last batch before the stop is read again, for comparison
        for number, batch in enumerate(batches_from(self.batches, self.epoch, seen), start=seen):
            if number < self.batch:
                self._compare(batch, resumed)
                continue
            self.batch, self.last = number + 1, batch
            yield batch
        if self.batch == 0:
            raise ValueError(
                f"batches gave nothing in epoch {self.epoch}: expected at least one batch. Look at the "
                "size of the data, at drop_last, and whether a generator was passed: it is read only once, "
                "pass a list or a DataLoader"
            )
        self.epoch, self.batch = self.epoch + 1, 0

    def _compare(self, batch: Any, resumed: dict[str, Any] | None) -> None:
        if resumed is None:
            return
        if fingerprint(batch) != resumed["fingerprint"]:
            raise CheckpointMismatch(
                f"batch {self.batch - 1} of epoch {self.epoch} is not the one seen before the stop. "
                "Resuming needs an order that depends on seed and epoch only: a DataLoader, or an object "
                "with epoch(epoch, start) or set_epoch"
            )
        set_random_states(resumed["random"])

    def state_dict(self) -> dict[str, Any]:
        """Return epoch, batch and a fingerprint of the last batch."""
        return {
            "epoch": self.epoch,
            "batch": self.batch,
            "fingerprint": fingerprint(self.last) if self.batch else "",
        }


def start_epoch(batches: Iterable[Any], seed: int, epoch: int) -> None:
    """Seed what may decide the order of an epoch: global generators, a DataLoader's own, ``set_epoch``."""
    epoch_seed = int(np.random.SeedSequence((seed, epoch)).generate_state(1)[0])
    seed_everything(epoch_seed)
    for part in (batches, getattr(batches, "sampler", None), getattr(batches, "batch_sampler", None)):
        if hasattr(part, "set_epoch"):
            part.set_epoch(epoch)
        if isinstance(getattr(part, "generator", None), torch.Generator):
            part.generator.manual_seed(epoch_seed)


def batches_from(batches: Iterable[Any], epoch: int, start: int) -> Iterator[Any]:
    """Yield an epoch from batch ``start`` on: directly by ``epoch(epoch, start)`` if it exists, else skip."""
    if hasattr(batches, "epoch"):
        yield from batches.epoch(epoch, start)
        return
    for number, batch in enumerate(batches):
        if number >= start:
            yield batch


def fingerprint(batch: Any) -> str:
    """Return a hash over the tensors of a batch."""
    digest = hashlib.sha256()
    for tensor in tensors_of(batch):
        digest.update(str((tensor.dtype, tuple(tensor.shape))).encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def share_of_batch(batch: Any, engine: Engine) -> tuple[Any, float]:
    """Cut out this process's rows of a batch; the weight makes the mean over processes the mean over rows.

    Raises:
        ValueError: if there are fewer rows than processes.
    """
    ranks, rank = engine.world_size, engine.global_rank
    if ranks == 1:
        return batch, 1.0
    rows = len(tensors_of(batch)[0])
    if rows < ranks:
        raise ValueError(
            f"a batch of {rows} cannot be shared by {ranks} processes: use larger batches, or drop_last=True"
        )
    mine = slice(rank * rows // ranks, (rank + 1) * rows // ranks)
    return map_tensors(lambda tensor: tensor[mine], batch), (mine.stop - mine.start) * ranks / rows


def settings_of_engine(engine: Engine) -> dict[str, Any]:
    """Describe what of an engine changes results: precision and number of processes."""
    return {"precision": str(plugin_of(engine).precision), "processes": engine.world_size}


def tensor_copy(states: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copy weights to the CPU, so that further training does not change them."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in states.items()}
