"""Film reviews from a grammar, in which a negation decides about a word that comes much later."""

from __future__ import annotations

import random

from seqcourse.data.generated.common import check_size, expand, generated_source, sentence, split
from seqcourse.data.types import Reviews

# Every negation is one word after "would" or "could", and every review holds as many of them as it has
# verdicts. So the bag of words never tells whether it is the verdict that is negated: only the order does.
VERDICTS = (
    "I would {n}say that",
    "I could {n}claim that",
    "I would {n}tell a friend that",
    "my sister would {n}agree that",
    "most of us could {n}argue that",
    "an honest critic would {n}write that",
    "I could {n}believe that",
    "you would {n}hear me repeat that",
)
ASIDES = (
    "we would {n}sit in the front row",
    "I could {n}find the old cinema on the map",
    "my neighbour would {n}bring his own blanket",
    "you could {n}hear the rain on the roof",
    "the usher would {n}open the side door",
    "I would {n}drive home by the coast road",
    "our children could {n}stay up that late",
    "the man behind me would {n}put away his phone",
)
NEGATIONS = ("not", "never")
POSITIVE = (
    "wonderful", "moving", "brilliant", "charming", "gripping", "delightful", "superb", "touching",
    "witty", "graceful", "splendid", "tender", "thrilling", "inventive", "radiant", "memorable",
)  # fmt: skip
NEGATIVE = (
    "dreadful", "dull", "clumsy", "tedious", "hollow", "lifeless", "awful", "shallow",
    "sloppy", "pointless", "dreary", "stale", "grating", "muddled", "cheap", "forgettable",
)  # fmt: skip

RULES = {
    "aspect": (
        "this film", "the whole story", "the second act", "the young lead", "the last half hour", "the music",
        "the camera work", "the dialogue", "the villain", "the ending", "the pacing", "the cast",
    ),
    "inserted": (
        "which {who} {lent} after {time}",
        "shot in {place} over {time}",
        "with {thing} and {thing} in nearly every scene",
        "given that {who} had waited {time} for it",
        "as far as anyone from {place} can judge",
        "once {who} had explained the part about {thing}",
        "based on a story that {who} heard in {place}",
    ),
    "who": (
        "my neighbour", "the projectionist", "an old teacher of mine", "the woman at the till", "my cousin",
        "the director", "a colleague", "her brother", "the night porter", "our landlord",
    ),
    "lent": ("lent me", "found in a box", "had kept on tape", "brought along", "chose for us"),
    "time": (
        "a long week at work", "two cold winters", "the better part of a year", "a single weekend",
        "three rainy evenings", "most of the spring", "a quiet holiday", "eleven days",
    ),
    "place": (
        "a harbour town", "the northern hills", "Lisbon", "an empty hospital", "the desert",
        "a mill by a river", "Ghent", "the old quarter",
        "a village without a station", "the outskirts of Turin",
    ),
    "thing": (
        "a yellow bicycle", "the broken radio", "two brothers", "a letter", "the ferry", "a stray dog",
        "the piano", "a wedding", "the storm", "an unpaid bill", "the twins", "a painted door",
    ),
    "neutral": (
        "it runs for two hours and a bit",
        "the plot turns on {thing} and {thing}",
        "{who} and {who} saw it in {place}",
        "we went on the Tuesday after {time}",
        "there is {thing}, there is {thing}, and there is {place}",
        "the credits thank {who} and the people of {place}",
        "half of it plays in {place}",
        "{who} told us about {thing} on the way home",
    ),
}  # fmt: skip


def reviews(n: int = 4000, seed: int = 0, *, negation: float = 0.35, verdicts: int = 1) -> Reviews:
    """Write film reviews whose verdict may be turned round by a negation many words before it.

    A review calls some aspect of a film good or bad; a "not" or "never" in front of the verdict turns it
    round, the same word in an aside does not, and a review has exactly one of the two per verdict. The words
    alone are therefore the same in either case: a bag of words can at best trust the adjective, and is then
    wrong in the share ``negation`` of the reviews (for one verdict). A reader of the order is always right.

    Args:
        n: how many reviews; the first half is for training, the second for testing.
        seed: same seed, same reviews.
        negation: the share of verdicts that are negated.
        verdicts: how many verdicts a review gives; they agree with each other.

    Returns:
        Balanced reviews, as pairs (text, label), 1 for positive.

    Raises:
        ValueError: if ``n`` is below 4, ``negation`` is not between 0 and 1, or ``verdicts`` is below 1.
    """
    check_size(4, n=n)
    check_size(1, verdicts=verdicts)
    if not 0 <= negation <= 1:
        raise ValueError(f"negation is a share between 0 and 1, got {negation}")
    rng = random.Random(f"reviews {seed}")
    # Labels alternate, so that both halves are balanced.
    labelled = [(_review(label, negation, verdicts, rng), label) for label in (i % 2 for i in range(n))]
    train, test = split(labelled, [0.5])
    rng.shuffle(train)
    rng.shuffle(test)
    note = (
        f"{n} grammar-made film reviews, seed {seed}; sentiment depends on a negation many words before "
        f"the adjective in {negation:.0%} of the verdicts."
    )
    return Reviews(train, test, generated_source("reviews", note, [train, test]))


def _review(label: int, negation: float, verdicts: int, rng: random.Random) -> str:
    sentences = [_neutral(rng) for _ in range(rng.randint(1, 3))]
    for _ in range(verdicts):
        negated = rng.random() < negation
        sentences += [_verdict(label, negated, rng), _aside(not negated, rng)]
    rng.shuffle(sentences)
    return " ".join(sentences)


def _verdict(label: int, negated: bool, rng: random.Random) -> str:
    """One judgement: the adjective says the opposite of the label when the opening is negated."""
    adjective = rng.choice(POSITIVE if label != negated else NEGATIVE)
    inserted = ", ".join(["{inserted}"] * rng.randint(1, 3))
    return _finish(f"{_opening(VERDICTS, negated, rng)} {{aspect}}, {inserted}, was {adjective}", rng)


def _aside(negated: bool, rng: random.Random) -> str:
    return _finish(_opening(ASIDES, negated, rng), rng)


def _opening(templates: tuple[str, ...], negated: bool, rng: random.Random) -> str:
    negator = rng.choice(NEGATIONS) + " " if negated else ""
    return rng.choice(templates).replace("{n}", negator)


def _neutral(rng: random.Random) -> str:
    return _finish("{neutral}", rng)


def _finish(template: str, rng: random.Random) -> str:
    return sentence(expand(RULES, template, rng)) + "."
