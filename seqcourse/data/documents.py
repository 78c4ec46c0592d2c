"""Loaders for documents: abstracts with one-sentence summaries, task-oriented dialogues."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from seqcourse.data.loading import Files, read_text, real_or_generated
from seqcourse.data.source import Source
from seqcourse.data.types import Dialogue, Dialogues, Summaries, Summary, Turn


def load_scitldr(*, generated: bool | None = None, cache_dir: str | Path | None = None) -> Summaries:
    """Abstracts of papers with one or more one-sentence summaries, 1,992 / 619 / 618.

    Source: Cachola et al., TLDR: Extreme Summarization of Scientific Documents, 2020.

    Args:
        generated: None: stand-in only if the data cannot be had; True: always; False: never.
        cache_dir: Cache folder; default as the environment says.

    Raises:
        DataUnavailable: `generated` is False and the data cannot be had.
    """
    from seqcourse.data.generated import summaries

    return real_or_generated("scitldr", _read_scitldr, summaries, generated=generated, cache_dir=cache_dir)


def _read_scitldr(files: Files, source: Source) -> Summaries:
    return Summaries(*(_pairs(files[f"{name}.jsonl"]) for name in ("train", "dev", "test")), source=source)


def _pairs(path: Path) -> list[Summary]:
    # Split at LF only: the sentences contain other characters that str.splitlines takes for a line end.
    rows = [json.loads(line) for line in read_text(path).split("\n") if line]
    return [(row["source"], row["target"]) for row in rows]


def load_sgd(*, generated: bool | None = None, cache_dir: str | Path | None = None) -> Dialogues:
    """Dialogues between a user and an assistant about services, with the state of the user's wishes.

    Six of the publisher's 181 shards: 512 dialogues for training, 128 each for validation and test.

    Source: Rastogi et al., The Schema-Guided Dialogue Dataset, 2020.

    Args:
        generated: None: stand-in only if the data cannot be had; True: always; False: never.
        cache_dir: Cache folder; default as the environment says.

    Raises:
        DataUnavailable: `generated` is False and the data cannot be had.
    """
    from seqcourse.data.generated import dialogues

    return real_or_generated("sgd", _read_sgd, dialogues, generated=generated, cache_dir=cache_dir)


def _read_sgd(files: Files, source: Source) -> Dialogues:
    parts = [_shards(files, f"{split}/dialogues_") for split in ("train", "dev", "test")]
    schemas = [json.loads(read_text(files[f"{split}/schema.json"])) for split in ("train", "dev", "test")]
    services = sorted({service["service_name"] for schema in schemas for service in schema})
    return Dialogues(*parts, services=services, source=source)


def _shards(files: Files, prefix: str) -> list[Dialogue]:
    names = sorted(name for name in files if name.startswith(prefix))
    return [_dialogue(entry) for name in names for entry in json.loads(read_text(files[name]))]


def _dialogue(entry: dict[str, Any]) -> Dialogue:
    return Dialogue(entry["dialogue_id"], tuple(entry["services"]), [_turn(turn) for turn in entry["turns"]])


def _turn(entry: dict[str, Any]) -> Turn:
    # Only the user's turns carry a state: the system is what is to be built.
    framed = [(frame["service"], frame["state"]) for frame in entry["frames"] if "state" in frame]
    intents = tuple(state["active_intent"] for _, state in framed if state["active_intent"] != "NONE")
    state = {
        f"{service}/{slot}": values
        for service, state in framed
        for slot, values in state["slot_values"].items()
    }
    return Turn(entry["speaker"], entry["utterance"], intents, state)
