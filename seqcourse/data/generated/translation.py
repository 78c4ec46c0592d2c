"""Sentence pairs from a small synchronous grammar of English, German and French.

One derivation is written out in each language, with that language's own order: the German verb goes to the
end of a subordinate clause, a fronted adverb swaps subject and verb, French adjectives follow their noun.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import NamedTuple

from seqcourse.data.generated.common import check_size, generated_source, sentence, split
from seqcourse.data.types import ParallelText


class Noun(NamedTuple):
    en: str
    de: str
    gender_de: str
    fr: str
    gender_fr: str


class Adjective(NamedTuple):
    en: str
    de: str
    fr: str
    fr_feminine: str


class Verb(NamedTuple):
    """Third person singular and past participle in each language, and the English infinitive."""

    en: str
    en_participle: str
    en_base: str
    de: str
    de_participle: str
    fr: str
    fr_participle: str


PEOPLE = [
    Noun(*entry.split())
    for entry in (
        "man Mann m garçon m",
        "woman Frau f femme f",
        "teacher Lehrer m professeur m",
        "girl Mädchen n fille f",
        "king König m roi m",
        "queen Königin f reine f",
        "doctor Arzt m médecin m",
        "neighbour Nachbarin f voisine f",
        "baker Bäcker m boulanger m",
        "sister Schwester f sœur f",
        "brother Bruder m frère m",
        "child Kind n gamin m",
        "guest Gast m visiteur m",
        "singer Sängerin f chanteuse f",
    )
]
THINGS = [
    Noun(*entry.split())
    for entry in (
        "dog Hund m chien m",
        "cat Katze f chat m",
        "horse Pferd n cheval m",
        "book Buch n livre m",
        "house Haus n maison f",
        "letter Brief m lettre f",
        "bread Brot n pain m",
        "table Tisch m table f",
        "lamp Lampe f lampe f",
        "bicycle Fahrrad n vélo m",
        "picture Bild n tableau m",
        "key Schlüssel m clé f",
        "bottle Flasche f bouteille f",
        "boat Boot n bateau m",
        "hat Hut m chapeau m",
        "door Tür f porte f",
        "bridge Brücke f pont m",
        "flower Blume f fleur f",
    )
]
ADJECTIVES = [
    Adjective(*entry.split())
    for entry in (
        "red rot rouge rouge",
        "black schwarz noir noire",
        "green grün vert verte",
        "heavy schwer lourd lourde",
        "calm ruhig calme calme",
        "rich reich riche riche",
        "strange seltsam bizarre bizarre",
        "cold kalt froid froide",
        "clean sauber propre propre",
        "famous berühmt célèbre célèbre",
        "serious ernst sérieux sérieuse",
        "brown braun brun brune",
        "white weiß blanc blanche",
        "blind blind aveugle aveugle",
    )
]
VERBS = [
    Verb(*entry.split())
    for entry in (
        "sees seen see sieht gesehen voit vu",
        "finds found find findet gefunden trouve trouvé",
        "paints painted paint malt gemalt peint peint",
        "sells sold sell verkauft verkauft vend vendu",
        "carries carried carry trägt getragen porte porté",
        "loses lost lose verliert verloren perd perdu",
        "draws drawn draw zeichnet gezeichnet dessine dessiné",
        "seeks sought seek sucht gesucht cherche cherché",
        "washes washed wash wäscht gewaschen lave lavé",
        "hides hidden hide versteckt versteckt cache caché",
        "takes taken take nimmt genommen prend pris",
        "pays paid pay bezahlt bezahlt paie payé",
    )
]
TIMES = [
    ("today", "heute", "aujourd'hui"),
    ("now", "jetzt", "maintenant"),
    ("tonight", "heute Abend", "ce soir"),
]
FRAMES = [
    ("we know", "wir wissen", "nous savons"),
    ("I think", "ich denke", "je pense"),
    ("they say", "sie sagen", "ils disent"),
    ("he believes", "er glaubt", "il croit"),
    ("she hopes", "sie hofft", "elle espère"),
]

# (definite, case) -> gender -> article; the adjective's ending follows the same keys.
GERMAN_ARTICLES = {
    (True, "subject"): {"m": "der", "f": "die", "n": "das"},
    (True, "object"): {"m": "den", "f": "die", "n": "das"},
    (False, "subject"): {"m": "ein", "f": "eine", "n": "ein"},
    (False, "object"): {"m": "einen", "f": "eine", "n": "ein"},
}
GERMAN_ENDINGS = {
    (True, "subject"): {"m": "e", "f": "e", "n": "e"},
    (True, "object"): {"m": "en", "f": "e", "n": "e"},
    (False, "subject"): {"m": "er", "f": "e", "n": "es"},
    (False, "object"): {"m": "en", "f": "e", "n": "es"},
}
FRENCH_ARTICLES = {True: {"m": "le", "f": "la"}, False: {"m": "un", "f": "une"}}


@dataclass(frozen=True)
class Phrase:
    """A noun phrase before it is put into any language."""

    noun: Noun
    adjective: Adjective | None
    definite: bool

    def english(self) -> str:
        return _join("the" if self.definite else "a", self.adjective and self.adjective.en, self.noun.en)

    def german(self, case: str) -> str:
        key, gender = (self.definite, case), self.noun.gender_de
        adjective = self.adjective and self.adjective.de + GERMAN_ENDINGS[key][gender]
        return _join(GERMAN_ARTICLES[key][gender], adjective, self.noun.de)

    def french(self) -> str:
        gender = self.noun.gender_fr
        adjective = self.adjective and (self.adjective.fr if gender == "m" else self.adjective.fr_feminine)
        return _join(FRENCH_ARTICLES[self.definite][gender], self.noun.fr, adjective)


@dataclass(frozen=True)
class Clause:
    """What all languages say. ``tense``: present, perfect or negated; ``frame`` and ``time``: indices."""

    subject: Phrase
    verb: Verb
    thing: Phrase
    tense: str
    frame: int | None
    time: int | None

    def english(self) -> str:
        verb = {
            "present": self.verb.en,
            "perfect": f"has {self.verb.en_participle}",
            "negated": f"does not {self.verb.en_base}",
        }
        frame = FRAMES[self.frame][0] + " that" if self.frame is not None else None
        time = TIMES[self.time][0] if self.time is not None else None
        return _join(frame, time, self.subject.english(), verb[self.tense], self.thing.english())

    def german(self) -> str:
        subject, thing = self.subject.german("subject"), self.thing.german("object")
        finite = "hat" if self.tense == "perfect" else self.verb.de
        last = {"present": None, "perfect": self.verb.de_participle, "negated": "nicht"}[self.tense]
        if self.frame is not None:  # verb-final
            return _join(FRAMES[self.frame][1] + ", dass", subject, thing, last, finite)
        if self.time is not None:  # the verb keeps the second place
            return _join(TIMES[self.time][1], finite, subject, thing, last)
        return _join(subject, finite, thing, last)

    def french(self) -> str:
        verb = {
            "present": self.verb.fr,
            "perfect": f"a {self.verb.fr_participle}",
            "negated": f"ne {self.verb.fr} pas",
        }
        frame = FRAMES[self.frame][2] + " que" if self.frame is not None else None
        time = TIMES[self.time][2] + "," if self.time is not None else None
        text = _join(frame, time, self.subject.french(), verb[self.tense], self.thing.french())
        return text.replace("que un", "qu'un")  # elision before "un" and "une"


WRITERS = {"en": Clause.english, "de": Clause.german, "fr": Clause.french}


def toy_translation(
    n: int = 3000, seed: int = 0, *, languages: tuple[str, str] = ("de", "en")
) -> ParallelText:
    """Write the same sentences in two languages that order their words differently.

    Args:
        n: how many pairs; 80 % are for training, 10 % for validation, the rest for testing. No sentence is in
            two parts.
        seed: same seed, same pairs.
        languages: source and target, two of "en", "de", "fr".

    Raises:
        ValueError: if a language is unknown, both are the same, or ``n`` is not in 10 .. 100,000.
    """
    check_size(10, n=n)
    if n > 100_000:
        raise ValueError(f"n must be at most 100000, got {n}: the grammar would begin to repeat itself")
    if len(set(languages)) != 2 or not set(languages) <= set(WRITERS):
        raise ValueError(f"languages must be two of {sorted(WRITERS)}, got {languages}")
    rng = random.Random(f"translation {seed}")
    clauses: dict[Clause, None] = {}  # a set that keeps its order
    while len(clauses) < n:
        clauses[_clause(rng)] = None
    pairs = [tuple(sentence(WRITERS[language](clause)) + "." for language in languages) for clause in clauses]
    parts = split(pairs, [0.8, 0.1])
    note = f"{n} sentence pairs from a small grammar with reordering, {'-'.join(languages)}, seed {seed}."
    return ParallelText(*parts, source=generated_source("toy translation", note, parts), languages=languages)


def _clause(rng: random.Random) -> Clause:
    kind = rng.choice(("plain", "frame", "frame", "time"))
    return Clause(
        subject=_phrase(PEOPLE, rng),
        verb=rng.choice(VERBS),
        thing=_phrase(THINGS, rng),
        tense=rng.choice(("present", "present", "perfect", "negated")),
        frame=rng.randrange(len(FRAMES)) if kind == "frame" else None,
        time=rng.randrange(len(TIMES)) if kind == "time" else None,
    )


def _phrase(nouns: list[Noun], rng: random.Random) -> Phrase:
    adjective = rng.choice(ADJECTIVES) if rng.random() < 0.5 else None
    return Phrase(rng.choice(nouns), adjective, definite=rng.random() < 0.6)


def _join(*parts: str | None) -> str:
    return " ".join(part for part in parts if part)
