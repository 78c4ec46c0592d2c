"""Blank verse from a grammar: lines of ten syllables, spoken by characters, collected in plays."""

from __future__ import annotations

import random
import re

from seqcourse.data.generated.common import check_size, generated_source, sentence, word_list
from seqcourse.data.types import TextCorpus

# Word classes with their number of syllables. "V1z" is a V1 with an s: none of these gains a syllable by it.
WORDS = {
    "N1": word_list("""
    bell bough brook cloak cloud coast crow crown dawn deed door dream drum dusk field fire flame
    frost gate ghost glove grave guard guest hall harp hawk heart hill horn hour key king knave lamb
    lark leaf light lute moon moth night oak oath path prince queen rain realm ring road rose sail
    sea ship snow son soul spear spring star stone storm sword thief throne tide tongue tree truth
    vine voice wall wave well wind wine wolf wood world
"""),
    "N2": word_list("""
    anchor autumn banner barley brother candle castle chamber cradle curtain daughter echo ember
    evening falcon father feather forest fountain garden hammer harbour hunger island jewel journey
    kingdom ladder lantern maiden marble master meadow mirror morning mother mountain music needle
    orchard palace pilgrim raven river sailor servant shadow shepherd silence sister soldier sorrow
    stranger summer tailor temple thunder tower valley village water whisper widow window winter
    witness
"""),
    "A1": word_list("""
    bare bright brief calm cold dark deaf deep dry faint fair false fierce fond frail grave grey
    harsh kind lame late lost loud low meek mild mute old pale plain proud pure rare rough sad safe
    sharp slow soft sour stern still strange sweet swift tall thin true vain warm wild wise young
"""),
    "A2": word_list("""
    ancient bitter broken careless crooked distant drowsy empty faithful fearless fickle frozen
    gentle golden hidden hollow humble idle jealous lonely loyal mighty mortal naked narrow nimble
    patient quiet restless rusty sacred secret silent silver simple sleeping solemn stubborn sudden
    sullen tender thankful thirsty troubled weary winding wooden
"""),
    "V1": word_list("""
    bear bend blame bind break bring build burn call claim count crown draw dream fear feed find
    guard hear hide hold keep learn leave lend light mend mourn move need own pluck praise prove
    ring rule seek send serve shake sing spare spend spill steal stir strike sweep take tear tell
    throw trust turn wake warn weave win
"""),
    "V2": word_list("""
    abide answer awake beguile behold betray borrow carry conquer deceive defend deny devour divide
    endure forget forgive gather govern hinder honour kindle measure number obey pardon pursue
    remain repair reveal shelter summon swallow wander weaken
"""),
    "R2": word_list("""
    always barely boldly calmly gladly kindly lately lightly never often proudly quickly rarely
    sadly slowly softly sweetly warmly wisely
"""),
}

# Whatever is not a slot is a word of one syllable: each line has ten (a test counts them).
LINES = (
    "the A2 N2 V1z the A1 N2",
    "I shall V1 the N1 that V1z the N2",
    "come V1 with me , my A1 and A2 N1",
    "what N2 V1z the N2 of the N1 ?",
    "no A2 N1 can V2 the A1 N1",
    "O A1 N1 , why must thou V1 the N2 ?",
    "the N1 is A1 , the N1 is A1 and A1",
    "so R2 V1z the N1 to the N2",
    "I V1 , I V1 , and yet the N2 V1z",
    "my N1 , thou art A2 as the N2",
    "let no A1 N1 V1 the N2 of N1",
    "if thou wilt V1 , then I will V2 too",
    "who V1z the N1 shall V1 the A2 N1",
    "by N1 and N1 , by A2 N1 and N1",
    "go , tell the N2 that her N2 V1z",
    "the N1 that V1z the N2 R2 V1z",
    "and when the N2 V1z , the N2 V1z",
    "not all the A2 N2 of the N1",
)
SPEAKERS = word_list("""
    ALDOUS BERENGAR CORISANDE DORIMEL EDRIC FIORELLA GALLEN HESPERA ISOLDRA JOCOSTE KESTREL LYSANOR
    MERRIWEN NORBERT ORSALINE PERDRICO QUILLON ROSAMAR SYLVANO TAMSIN ULFRIC VESPERINE WENDELIN
    YSABEAU
""")


def verse(n_lines: int = 4000, seed: int = 0) -> TextCorpus:
    """Write plays in blank verse, laid out as play texts are: a name and a colon, the lines, a blank line.

    Args:
        n_lines: lines of verse in all.
        seed: same seed, same plays.

    Returns:
        A corpus with the plays by title; the first nine tenths of the text are for training.

    Raises:
        ValueError: if ``n_lines`` is below 20.
    """
    check_size(20, n_lines=n_lines)
    rng = random.Random(f"verse {seed}")
    plays: dict[str, str] = {}
    while n_lines > 0:
        length = min(n_lines, 800)
        plays[_title(plays, rng)] = _play(length, rng)
        n_lines -= length
    text = "\n".join(plays.values())
    cut = text.rindex("\n\n", 0, len(text) * 9 // 10) + 2  # between two speeches
    note = f"{len(plays)} plays in grammar-made blank verse, seed {seed}."
    return TextCorpus(text[:cut], text[cut:], generated_source("verse", note, plays), plays=plays)


def _title(taken: dict[str, str], rng: random.Random) -> str:
    title = ""
    while not title or title in taken:
        title = f"The {_word('A2', rng)} {_word('N2', rng)}".title()
    return title


def _play(n_lines: int, rng: random.Random) -> str:
    cast = rng.sample(SPEAKERS, 7)
    speeches, speaker = [], ""
    while n_lines > 0:
        speaker = rng.choice([name for name in cast if name != speaker])
        length = min(n_lines, rng.choice((1, 1, 2, 3, 4, 5, 7)))
        speeches.append(_speech(speaker, length, rng))
        n_lines -= length
    return "\n".join(speeches)


def _speech(speaker: str, length: int, rng: random.Random) -> str:
    lines = [_line(rng, last=i == length - 1) for i in range(length)]
    return "\n".join([f"{speaker}:", *lines, ""])


def _line(rng: random.Random, last: bool) -> str:
    text = re.sub(r"[NAVR]\dz?", lambda slot: _word(slot[0], rng), rng.choice(LINES))
    text = sentence(text.replace(" ,", ",").replace(" ?", "?"))
    if text.endswith("?"):
        return text
    return text + (rng.choice(".!") if last else rng.choice([",", ",", ";", ".", ":", ""]))


def _word(slot: str, rng: random.Random) -> str:
    return rng.choice(WORDS[slot[:2]]) + slot[2:].replace("z", "s")
