"""`seqcourse marks`: export the marks."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("names", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every exercise that has been graded.")
@click.option("--course", "folder", default=".", help="The course folder.")
@click.option("--to", type=click.Path(dir_okay=False, path_type=Path), help="By default reports/marks.csv.")
def marks_cmd(names: tuple[str, ...], everything: bool, folder: str, to: Path | None) -> None:
    """Export the marks of exercises NAMES as CSV: hand marks and late penalties included."""
    from seqcourse.grading.course import Course, CourseError
    from seqcourse.grading.export import export, graded_names

    if bool(names) == everything:
        raise click.UsageError("name exercises, or give --all")
    try:
        course = Course.open(folder)
        to = to or course.root / "reports" / "marks.csv"
        rows = export(course, list(names) or graded_names(course), to)
    except CourseError as error:
        raise click.ClickException(str(error)) from error
    unread = sum(row.get("needs_hand_grading") == "yes" for row in rows)
    unmarked = sum(row.get("score") is None for row in rows)
    click.echo(
        f"{to}: {len(rows)} rows, {unmarked} without a mark, {unread} with something left to grade by hand."
    )
