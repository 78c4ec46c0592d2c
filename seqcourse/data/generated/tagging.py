"""Sentences with named entities from templates, tagged in IOB2."""

from __future__ import annotations

import random

from seqcourse.data.generated.common import check_size, generated_source, split, word_list
from seqcourse.data.types import Sentence, TaggedText

FIRST_NAMES = word_list("""
    Alma Bruno Carla Dario Elin Felix Greta Hugo Ines Jonas Kira Leon Mara Nils Olga Paul Rosa
    Stefan Tilda Viktor
""")
BEGINNINGS = word_list("""
    Ar Bel Cor Dun El Far Gal Har Kel Lin Mar Nor Ost Pel Ros Sel Tor Ul Ver Wes
""")
ENDINGS = word_list("""
    bury dell den ford ham holm ington land ley mere mond ner ric stad sten ton vale wick wood worth
""")
COMPANY_KINDS = word_list("""
    Bank Motors Institute University Airlines Group Press Foods Hospital Museum Theatre Records
""")
TITLES = ("Dr", "Mrs", "Mr", "Judge", "Professor")

# Surnames and places share their syllables: whether "Marton" is a person, a firm or a town, the context says.
TEMPLATES = (
    "{PER} was born in {LOC} and later joined {ORG} .",
    "{ORG} will open a second office in {LOC} next year .",
    "According to {PER} , the talks with {ORG} have failed .",
    "Heavy snow closed the road between {LOC} and {LOC} .",
    "The board of {ORG} has named {PER} as its chair .",
    "{PER} met {PER} at the station in {LOC} .",
    "Nobody at {ORG} would say why {PER} resigned .",
    "Shares in {ORG} fell after {ORG} withdrew its offer .",
    "The mayor of {LOC} thanked {PER} for the gift .",
    "In {LOC} , the match was stopped after an hour .",
    "{PER} writes about the history of {LOC} .",
    "A spokesman for {ORG} denied the report on Monday .",
    "Trains to {LOC} will run again from Thursday .",
    "{PER} , who left {ORG} in May , now lives near {LOC} .",
    "The river rose quickly and flooded parts of {LOC} .",
    "Three nurses from {ORG} were flown to {LOC} .",
    "The weather stayed dry and the harvest was good .",
    "We asked {PER} what the new law would change .",
    "{LOC} beat {LOC} by two goals to one .",
    "The jury believed {PER} and not the lawyers of {ORG} .",
)


def tagged_sentences(n: int = 2000, seed: int = 0) -> TaggedText:
    """Fill sentence templates with invented people, organisations and places.

    Args:
        n: how many sentences; 70 % are for training, 15 % for validation, the rest for testing.
        seed: same seed, same sentences.

    Returns:
        Sentences as (tokens, tags), with tags O and B-/I- of PER, ORG and LOC.

    Raises:
        ValueError: if ``n`` is below 10.
    """
    check_size(10, n=n)
    rng = random.Random(f"tagged sentences {seed}")
    parts = split([_sentence(rng.choice(TEMPLATES), rng) for _ in range(n)], [0.7, 0.15])
    note = f"{n} sentences from {len(TEMPLATES)} templates with invented names, seed {seed}."
    return TaggedText(*parts, source=generated_source("tagged sentences", note, parts))


def _sentence(template: str, rng: random.Random) -> Sentence:
    tokens: list[str] = []
    tags: list[str] = []
    for word in template.split():
        kind = word.strip("{}") if word.startswith("{") else ""
        name = ENTITIES[kind](rng).split() if kind else [word]
        tokens += name
        tags += [f"B-{kind}"] + [f"I-{kind}"] * (len(name) - 1) if kind else ["O"]
    return tokens, tags


def _name(rng: random.Random) -> str:
    return rng.choice(BEGINNINGS) + rng.choice(ENDINGS)


def _person(rng: random.Random) -> str:
    first, last = rng.choice(FIRST_NAMES), _name(rng)
    return rng.choice((first, last, f"{first} {last}", f"{first} {last}", f"{rng.choice(TITLES)} {last}"))


def _organisation(rng: random.Random) -> str:
    kind = rng.choice(COMPANY_KINDS)
    return rng.choice(
        (_name(rng), f"{_name(rng)} {kind}", f"{kind} of {_name(rng)}", f"{_name(rng)} & {_name(rng)}")
    )


def _place(rng: random.Random) -> str:
    return rng.choice(
        (_name(rng), _name(rng), f"New {_name(rng)}", f"{_name(rng)} Bay", f"Port {_name(rng)}")
    )


ENTITIES = {"PER": _person, "ORG": _organisation, "LOC": _place}
