"""`seqcourse collect`: take in what students handed in."""

from __future__ import annotations

from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import click

NEEDS_ATTENTION = 3


@click.command()
@click.argument("name")
@click.option(
    "--zip",
    "zip_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="What the LMS gives: one zip of the whole class (Moodle, Canvas, Blackboard, or folders).",
)
@click.option(
    "--folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A folder with one folder per student, or an LMS zip unpacked.",
)
@click.option("--exchange", is_flag=True, help="nbgrader's exchange (JupyterHub).")
@click.option(
    "--roster",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="CSV of the class: student, and if there are any name, email, lms (the LMS's number).",
)
@click.option("--timezone", default="UTC", show_default=True, help="Of the dates in the zip file.")
@click.option("--course", "folder_of_course", default=".", help="The course folder.")
def collect_cmd(
    name: str,
    zip_file: Path | None,
    folder: Path | None,
    exchange: bool,
    roster: Path | None,
    timezone: str,
    folder_of_course: str,
) -> None:
    """Collect the hand-ins of exercise NAME into submitted/.

    Exit code 0: everybody's hand-in is collected; 3: some are missing, doubtful, corrupt or refused;
    1: nothing was done.
    """
    from seqcourse.grading.course import CourseError

    if sum([bool(zip_file), bool(folder), exchange]) != 1:
        raise click.UsageError("give one of --zip FILE, --folder DIR and --exchange")
    try:
        collection = _collect(name, zip_file, folder, roster, _zone(timezone), folder_of_course)
    except CourseError as error:
        raise click.ClickException(str(error)) from error
    _show(collection)
    raise SystemExit(NEEDS_ATTENTION if collection.attention else 0)


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise click.UsageError(f"--timezone: expected a name such as Europe/Berlin, got {name!r}") from error


def _collect(name, zip_file, folder, roster_file, timezone, folder_of_course):
    from seqcourse.grading.collect import collect, members
    from seqcourse.grading.course import Course
    from seqcourse.grading.record import due_dates
    from seqcourse.grading.roster import enrol, gradebook_roster, read_roster

    course = Course.open(folder_of_course)
    with course.at_work(f"seqcourse collect {name}"), course.gradebook() as gradebook:
        if roster_file:
            enrol(gradebook, read_roster(roster_file))
            course.roster_given.write_text("the students of the gradebook are the whole class\n")
        roster = gradebook_roster(gradebook, complete=course.roster_given.exists())
        delivery = members(zip_file, folder or course.inbound(), timezone, roster)
        return collect(course, name, delivery, roster, due=due_dates(gradebook, name))


def _show(collection) -> None:
    from seqcourse.grading.collect import summary

    first, *rest = summary(collection)
    click.echo(f"{collection.name}: {first}")
    for line in rest:
        click.echo(line)
    if collection.kept:
        click.echo(
            f"kept      {len(collection.kept)} already filed and not older: {', '.join(collection.kept)}"
        )
