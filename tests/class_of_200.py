"""A class of 200 through the whole of grading, on a real exercise: `python tests/class_of_200.py [FOLDER]`.

One hand-in of every kind of `hand_ins`, late ones, and for the rest right and wrong answers from the
exercise's mutants. Prints times and what came out, and exits with 1 if a mark is not the one that is due.
"""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from datetime import datetime, timedelta
from itertools import cycle, islice
from pathlib import Path

from hand_ins import Exercise, HandIn, Maker, cell, checks, write_folder

from seqcourse.grading.authoring import release, source_notebook

ROOT = Path(__file__).resolve().parents[1]
NAME, STUDENTS, LATE = "02-lstm", 200, 10
# No other answer of the exercise needs this one.
ALONE = "count-parameters"


def read_mutants() -> dict[str, dict]:
    """Answer -> its file of wrong and right answers."""
    files = sorted((ROOT / "tests" / "mutants" / NAME).glob("*.toml"))
    return {path.stem: tomllib.loads(path.read_text(encoding="utf-8")) for path in files}


def points(notebook, names: list[str]) -> float:
    return float(
        sum(c.metadata.nbgrader.points for c in checks(notebook) if c.metadata.nbgrader.grade_id in names)
    )


def text(notebook, answer: str, entry: dict) -> str:
    reference = cell(notebook, answer).source
    return reference.replace(*entry["replace"]) if "replace" in entry else entry["code"]


def exercise() -> Exercise:
    reference, mutants = source_notebook(ROOT / "solutions" / f"{NAME}.md"), read_mutants()
    first = {answer: content["wrong"][0] for answer, content in mutants.items()}
    wrong = {a: (text(reference, a, entry), points(reference, entry["fails"])) for a, entry in first.items()}
    own = [c.metadata.nbgrader.grade_id for c in checks(reference)]
    lost = points(reference, [name for name in own if name.startswith(ALONE)])
    return Exercise(NAME, reference, wrong, ALONE, lost)


def honest(maker: Maker) -> list[HandIn]:
    """A hand-in for each mutant, right or wrong, with what it must earn."""
    made = []
    for answer, content in read_mutants().items():
        for entry in content["right"] + content["wrong"]:
            notebook = maker.notebook()
            cell(notebook, answer).source = text(notebook, answer, entry)
            lost = points(notebook, entry.get("fails", []))
            made.append(maker.hand_in(f"{answer}: {entry['name']}", notebook, score=maker.full - lost))
    return made


def class_list(maker: Maker) -> dict[str, HandIn]:
    """Everybody: one of each kind, late ones, and honest ones up to 200."""
    special = [*maker.everything(), *[maker.late() for _ in range(LATE - 1)]]
    made = special + list(islice(cycle(honest(maker)), STUDENTS - len(special)))
    return {f"student{number:03}": hand_in for number, hand_in in enumerate(made)}


def set_times(folder: Path, made: dict[str, HandIn], due: datetime) -> None:
    """Files of late students are a day younger than the due date, the others a day older."""
    for student, hand_in in made.items():
        moment = due + timedelta(days=1 if hand_in.late else -1)
        for number, name in enumerate(hand_in.files):
            stamp = moment.timestamp() + number  # of two versions the second is the newer
            os.utime(folder / student / name, (stamp, stamp))


def command(course: Path, *arguments: str) -> float:
    """Run a command that may end with 0, or with 3 (somebody needs attention); return its seconds."""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", *arguments], cwd=course)
    if done.returncode not in (0, 3):
        raise SystemExit(f"{' '.join(arguments)} ended with {done.returncode}")
    return time.perf_counter() - started


def differences(made: dict[str, HandIn], rows: dict[str, dict[str, str]]) -> list[str]:
    """Who got what they should not have got."""
    found = []
    for student, hand_in in made.items():
        row = rows.get(student, {"status": "not in the report", "score": "", "late": "", "notes": ""})
        score = float(row["score"]) if row["score"] else None
        if (row["status"], score) != (hand_in.status, hand_in.score):
            found.append(f"{student} ({hand_in.kind}): expected {hand_in.status} {hand_in.score}, got {row}")
        if hand_in.files and hand_in.score is not None and (row["late"] == "yes") != hand_in.late:
            found.append(f"{student} ({hand_in.kind}): expected late={hand_in.late}, got {row}")
        if hand_in.flagged and not row["notes"]:
            found.append(f"{student} ({hand_in.kind}): expected a note")
    return found


def main(folder: Path) -> int:
    course, due = folder / "course", datetime(2026, 11, 1, 12)
    (course / "solutions").mkdir(parents=True)
    shutil.copy(ROOT / "solutions" / f"{NAME}.md", course / "solutions")
    shutil.copy(ROOT / "nbgrader_config.py", course)
    release(NAME, course)
    command(course, "nbgrader", "db", "assignment", "add", NAME, f"--duedate={due} UTC")
    made = class_list(Maker(exercise()))
    write_folder(made, course / "handins")
    set_times(course / "handins", made, due)
    (course / "roster.csv").write_text("id\n" + "".join(f"{student}\n" for student in made))
    collecting = command(
        course, "seqcourse", "collect", NAME, "--folder", "handins", "--roster", "roster.csv"
    )
    grading = command(course, "seqcourse", "grade", NAME, "--jobs", "2", "--require-sandbox")
    with (course / "reports" / f"{NAME}.csv").open(newline="") as file:
        rows = {row["student"]: row for row in csv.DictReader(file)}
    wrong = differences(made, rows)
    print(f"{len(made)} students, collected in {collecting:.0f} s, graded in {grading:.0f} s")
    print("statuses:", dict(Counter(row["status"] for row in rows.values())))
    print("\n".join(wrong) or "everybody got the mark they must have")
    return int(bool(wrong))


if __name__ == "__main__":
    os.environ["TZ"] = "UTC"
    time.tzset()
    place = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp(prefix="class-"))
    print(f"course folder: {place}")
    sys.exit(main(place))
