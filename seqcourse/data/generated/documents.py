"""Longer texts from grammars: encyclopedia articles, abstracts with summaries, dialogues with slots."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import replace

from seqcourse.data.generated.common import check_size, expand, generated_source, sentence, split
from seqcourse.data.types import Dialogue, Dialogues, Summaries, Summary, TextCorpus, Turn

# --- encyclopedia ----------------------------------------------------------------------------------

ARTICLE_RULES = {
    "name": (
        "Aldermoor", "Brackwater", "Cindermouth", "Dunhallow", "Eastmarch", "Fennick", "Greyport", "Hollin",
        "Ivershall", "Kestrelbay", "Lowmere", "Marrowgate", "Northfold", "Oxlade", "Pellworth", "Quarrendon",
    ),
    "direction": ("north", "south", "east", "west"),
    "industry": ("fishing", "glass", "wool", "salt", "shipbuilding", "paper", "copper", "printing"),
    "building": ("harbour", "town hall", "lighthouse", "abbey", "market", "observatory", "bridge", "school"),
    "event": ("a flood", "a fire", "the opening of the railway", "a long siege", "the closing of the mill"),
    "year": ("1643", "1702", "1758", "1811", "1849", "1876", "1903", "1927", "1954", "1968"),
    "people": ("sailors", "weavers", "miners", "farmers", "merchants", "monks", "engineers", "painters"),
    "common": (
        "the {building} was rebuilt in {year} after {event}",
        "most of its people worked in {industry} and in {industry}",
        "in {year} , {event} changed the town , and many {people} left for {name}",
        "the road to {name} runs {direction} along the coast",
        "its {building} , begun in {year} , is still used by {people}",
        "{people} from {name} settled there between {year} and {year}",
        "the old {building} stands {direction} of the {building}",
        "trade in {industry} ended in {year} , when {event} ruined the {building}",
    ),
}  # fmt: skip
OPENINGS = (
    "is a town on the {direction} coast , known for its {building} and for {industry} .",
    "was a ship built in {name} in {year} , which carried {people} to {name} .",
    "is a river that rises {direction} of {name} and reaches the sea near {name} .",
)


def encyclopedia(n: int = 150, seed: int = 0) -> TextCorpus:
    """Write articles about invented towns, ships and rivers, tokenised by spaces as WikiText is.

    Args:
        n: articles; 80 % are for training, 10 % for validation, the rest for testing.
        seed: same seed, same articles.

    Returns:
        A corpus with `` = Title = `` lines; in validation and test, names not seen in training are ``<unk>``.

    Raises:
        ValueError: if ``n`` is below 10.
    """
    check_size(10, n=n)
    rng = random.Random(f"encyclopedia {seed}")
    parts = ["".join(part) for part in split([_article(rng) for _ in range(n)], [0.8, 0.1])]
    known = set(parts[0].split())
    train, validation, test = (_hide_unknown(part, known) for part in parts)
    note = f"{n} grammar-made encyclopedia articles about invented places, seed {seed}."
    source = generated_source("encyclopedia", note, [train, validation, test])
    return TextCorpus(train, validation, source, test=test)


def _article(rng: random.Random) -> str:
    title = rng.choice(ARTICLE_RULES["name"])[:-2] + rng.choice(("a", "en", "by", "is", "ock", "ure", "est"))
    opening = f"{title} {expand(ARTICLE_RULES, rng.choice(OPENINGS), rng)}"
    paragraphs = [opening] + [_paragraph(rng) for _ in range(rng.randint(2, 4))]
    return "\n".join([f" = {title} = ", "", *(f" {paragraph} " for paragraph in paragraphs), "", ""])


def _paragraph(rng: random.Random) -> str:
    return " ".join(sentence(expand(ARTICLE_RULES, "{common} .", rng)) for _ in range(rng.randint(2, 5)))


def _hide_unknown(text: str, known: set[str]) -> str:
    return re.sub(r"\S+", lambda word: word[0] if word[0] in known else "<unk>", text)


# --- summaries -------------------------------------------------------------------------------------

SUMMARY_RULES = {
    "task": (
        "reading handwriting", "forecasting rainfall", "translating recipes", "sorting letters",
        "counting birds", "tuning pianos", "routing ferries", "detecting leaks",
        "grading timber", "tracking icebergs",
    ),
    "thing": ("gated memory", "sparse filter", "two-stage decoder", "lattice model", "layered sampler"),
    "quality": ("accuracy", "speed", "robustness", "memory use", "calibration", "coverage"),
    "background": (
        "The problem of {task} has been studied for many years.",
        "Earlier systems need large amounts of labelled data.",
        "In practice, {quality} matters more than {quality}.",
        "Many methods for {task} also work for {task}.",
        "It is not obvious how a {thing} would help.",
        "Users complain mostly about {quality}.",
    ),
    "detail": (
        "Training takes a few hours on one machine.",
        "The {thing} is trained first and then kept fixed.",
        "We compare it with a {thing} and with a {thing}.",
        "An ablation shows that the order of the steps matters.",
        "All settings were chosen on held-out data.",
    ),
}  # fmt: skip


def summaries(n: int = 300, seed: int = 0) -> Summaries:
    """Write abstracts of invented papers, each with a summary that joins its two decisive sentences.

    The contribution and the result stand at changing places among sentences that do not matter, and those may
    name other methods and tasks, so the first sentence does not give the summary away.

    Args:
        n: abstracts; 60 % for training, 20 % for validation, the rest for testing.
        seed: same seed, same abstracts.

    Raises:
        ValueError: if ``n`` is below 10.
    """
    check_size(10, n=n)
    rng = random.Random(f"summaries {seed}")
    parts = split([_abstract(rng) for _ in range(n)], [0.6, 0.2])
    note = f"{n} grammar-made abstracts of papers that do not exist, seed {seed}."
    return Summaries(*parts, source=generated_source("summaries", note, parts))


def _abstract(rng: random.Random) -> Summary:
    task, quality = (rng.choice(SUMMARY_RULES[symbol]) for symbol in ("task", "quality"))
    method, percent = rng.choice(SUMMARY_RULES["thing"]), rng.randint(3, 40)
    before = [expand(SUMMARY_RULES, "{background}", rng) for _ in range(rng.randint(1, 3))]
    between = [expand(SUMMARY_RULES, "{detail}", rng) for _ in range(rng.randint(1, 3))]
    contribution = f"We present a {method} for {task}."
    result = f"On three public test sets it improves {quality} by {percent} percent."
    document = [*before, contribution, *between, result]
    if rng.random() < 0.5:
        document.append(expand(SUMMARY_RULES, "{background}", rng))
    return document, [f"A {method} for {task} improves {quality} by {percent} percent."]


# --- dialogues -------------------------------------------------------------------------------------

# Service -> (intent, slot -> values, slot -> the system's question).
SERVICES = {
    "Ferries_1": (
        "BookFerry",
        {
            "harbour": ["Greyport", "Lowmere", "Fennick"],
            "day": ["Monday", "Friday", "Sunday"],
            "seats": ["1", "2", "4"],
        },
        {
            "harbour": "Which harbour do you want to leave from?",
            "day": "On which day?",
            "seats": "How many seats do you need?",
        },
    ),
    "Bakeries_1": (
        "OrderBread",
        {
            "loaf": ["rye bread", "white bread", "a seed loaf"],
            "hour": ["eight", "nine", "noon"],
            "pieces": ["1", "3"],
        },
        {
            "loaf": "Which bread would you like?",
            "hour": "When will you collect it?",
            "pieces": "How many of them?",
        },
    ),
    "Museums_1": (
        "BuyTickets",
        {
            "museum": ["the clock museum", "the harbour museum"],
            "visitors": ["2", "3", "5"],
            "day": ["Tuesday", "Saturday"],
        },
        {"museum": "Which museum?", "visitors": "For how many visitors?", "day": "Which day suits you?"},
    ),
}
REQUESTS = {
    "BookFerry": "Hello, I want to take a ferry.",
    "OrderBread": "Good morning, I would like to order bread.",
    "BuyTickets": "Can you get me tickets for a museum?",
}


def dialogues(n: int = 120, seed: int = 0) -> Dialogues:
    """Write task dialogues in which the user fills slots, and sometimes changes one much later.

    Args:
        n: dialogues; 60 % for training, 20 % for validation, the rest for testing.
        seed: same seed, same dialogues.

    Returns:
        Dialogues whose user turns carry the intent and the state so far, "service/slot" to values.

    Raises:
        ValueError: if ``n`` is below 10.
    """
    check_size(10, n=n)
    rng = random.Random(f"dialogues {seed}")
    parts = split([_dialogue(f"generated_{i:05d}", rng) for i in range(n)], [0.6, 0.2])
    note = f"{n} grammar-made dialogues about ferries, bakeries and museums, seed {seed}."
    return Dialogues(*parts, services=list(SERVICES), source=generated_source("dialogues", note, parts))


def _dialogue(dialogue_id: str, rng: random.Random) -> Dialogue:
    service = rng.choice(list(SERVICES))
    intent, slots, questions = SERVICES[service]
    turns = [Turn("USER", REQUESTS[intent], (intent,))]
    for slot in rng.sample(list(slots), len(slots)):
        value = rng.choice(slots[slot])
        turns.append(Turn("SYSTEM", questions[slot]))
        turns.append(_user(turns, f"{sentence(value)}, please.", f"{service}/{slot}", value))
    if rng.random() < 0.4:
        turns += _change_of_mind(turns, service, slots, rng.choice)
    summary = ", ".join(values[0] for values in turns[-1].state.values())
    turns.append(Turn("SYSTEM", f"So that is {summary}. Shall I confirm?"))
    turns.append(replace(turns[-2], utterance="Yes, thank you."))
    return Dialogue(dialogue_id, (service,), turns)


def _change_of_mind(
    turns: list[Turn], service: str, slots: dict[str, list[str]], choose: Callable
) -> list[Turn]:
    slot = choose(list(slots))
    (now,) = turns[-1].state[f"{service}/{slot}"]
    value = choose([value for value in slots[slot] if value != now])
    asked = Turn("SYSTEM", "Anything else?")
    return [asked, _user(turns, f"Sorry, make the {slot} {value} instead.", f"{service}/{slot}", value)]


def _user(turns: list[Turn], utterance: str, slot: str, value: str) -> Turn:
    """A user turn whose state is the last user turn's with one slot set."""
    last = next(turn for turn in reversed(turns) if turn.speaker == "USER")
    return Turn("USER", utterance, last.intents, {**last.state, slot: [value]})
