"""`seqcourse grade`: autograde a class, safely; killed and started again, it goes on."""

from __future__ import annotations

from collections import Counter

import click

FAILED, NEEDS_ATTENTION = 1, 3


@click.command()
@click.argument("name")
@click.option("--course", "folder", default=".", help="The course folder.")
@click.option(
    "--jobs", type=click.IntRange(1), help="Hand-ins at once on this machine; by default one per core."
)
@click.option("--scheduler", metavar="ADDRESS", help="A Dask scheduler, for instance tcp://10.0.0.1:8786.")
@click.option("--require-sandbox", is_flag=True, help="Refuse to run student code without bubblewrap.")
@click.option("--again", is_flag=True, help="Execute also what has been executed.")
@click.option(
    "--student", "students", multiple=True, metavar="ID", help="Only this student (may be repeated)."
)
def grade_cmd(
    name: str,
    folder: str,
    jobs: int | None,
    scheduler: str | None,
    require_sandbox: bool,
    again: bool,
    students: tuple[str, ...],
) -> None:
    """Grade what was handed in for exercise NAME; everybody and their status is listed in reports/NAME.csv.

    Killed or stopped at any moment, start it again: nothing is lost and nothing graded twice.

    Exit code 0: everybody is graded; 3: some need a look (missing, corrupt, crashed, tampered ...);
    1: the grader itself failed.
    """
    from seqcourse.grading.course import Course, CourseError
    from seqcourse.grading.pipeline import Options
    from seqcourse.grading.sandbox import SandboxMissing

    options = Options(jobs, scheduler, require_sandbox, again, students)
    try:
        grading = _grade(Course.open(folder), name, options)
    except (CourseError, SandboxMissing) as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        if not scheduler:
            raise
        raise click.ClickException(f"no Dask scheduler answers at {scheduler}: {error}") from error
    raise SystemExit(_conclude(grading))


def _grade(course, name, options):
    from tqdm import tqdm

    from seqcourse.grading.pipeline import grade

    seen = Counter()
    with tqdm(unit=" hand-ins", disable=None) as bar:

        def progress(task, total):
            seen[task.status] += 1
            bar.total = total
            bar.set_postfix(seen, refresh=False)
            bar.update()

        return grade(course, name, options, progress=progress)


def _conclude(grading) -> int:
    """Say what came out; return the exit code."""
    chosen = grading.chosen()
    counts = Counter(task.status for task in chosen)
    click.echo(
        f"{grading.name}: " + ", ".join(f"{number} {status}" for status, number in counts.most_common())
    )
    for task in chosen:
        if task.status != "graded":
            why = (
                task.failure
                or task.hand_in.reason
                or "; ".join(task.entry.result["notes"] if task.entry else [])
            )
            click.echo(f"{task.status:<9} {task.student}: {why[:200]}")
    for statement in {task.entry.result["sandbox"] for task in chosen if task.entry} - {"bubblewrap"}:
        click.secho(f"NOT PROTECTED: {statement}", fg="red", err=True)
    click.echo(f"All of it: {grading.course.root / 'reports' / grading.name}.csv")
    if counts["failed"]:
        return FAILED
    return NEEDS_ATTENTION if set(counts) - {"graded"} else 0
