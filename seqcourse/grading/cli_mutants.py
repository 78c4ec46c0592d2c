"""`seqcourse mutants`: right and wrong answers through the grader; each must get exactly its marks."""

from __future__ import annotations

import time

import click


@click.command()
@click.argument("names", nargs=-1)
@click.option("--jobs", default=2, show_default=True, help="Answers run at a time.")
@click.option("--write", is_flag=True, help="Write the kill matrix to book/records/mutants/.")
@click.option(
    "--check", is_flag=True, help="Run nothing; fail if a mutant is badly formed or a record is stale."
)
@click.option("--quick", is_flag=True, help="Of each answer, run only the checks that use it.")
@click.option(
    "--cover", is_flag=True, help="Only a few answers, several to a notebook: one for each graded cell."
)
@click.option("--end-to-end", is_flag=True, help="Also send a few through nbgrader autograde: equal marks.")
def mutants_cmd(
    names: tuple[str, ...], jobs: int, write: bool, check: bool, quick: bool, cover: bool, end_to_end: bool
) -> None:
    """Grade right and wrong answers of all exercises, or of NAMES; each must get exactly its marks."""
    from seqcourse.grading import authoring, mutants  # brings nbgrader, which takes a while

    if write and cover:
        raise click.UsageError("a kill matrix is written from all answers: --write without --cover.")
    bad = 0
    for name in names or authoring.exercise_names():
        found = mutants.record_problems(name) if check else _run(name, jobs, write, quick, cover, end_to_end)
        for problem in found:
            click.secho(f"{name}: {problem}", fg="red", err=True)
        bad += bool(found)
    if bad:
        raise click.ClickException(f"{bad} with violations: see above.")


def _run(name: str, jobs: int, write: bool, quick: bool, cover: bool, end_to_end: bool) -> list[str]:
    """Run the mutants of one exercise, say how it went, and return the violations."""
    from tqdm.auto import tqdm

    from seqcourse.grading import authoring, mutants
    from seqcourse.grading.execute import execute

    source = authoring.source_notebook(authoring.source_path(name))
    known, problems = mutants.read_mutants(name)
    known = mutants.cover(known) if cover else known
    everything = [*mutants.extremes(name, source), *(mutants.together(known) if cover else known)]
    started = time.monotonic()
    with tqdm(total=len(everything), desc=name, unit="notebook", disable=None) as bar:
        results = mutants.run_mutants(everything, source, execute, jobs, lambda result: bar.update(), quick)
    record = mutants.kill_record(name, source, results, time.monotonic() - started) | {"quick": quick}
    if write:
        click.echo(f"{name}: {mutants.write_record(record)}")
    kinds, slowest = [mutant.kind for mutant in known], max(results, key=lambda result: result.seconds)
    click.echo(
        f"{name}: {kinds.count('wrong')} wrong and {kinds.count('right')} right answers, "
        f"{len(record['cells'])} graded cells, {record['seconds']} s "
        f"(slowest {slowest.seconds} s: {slowest.mutant})"
    )
    found = problems + record["violations"]
    if end_to_end:
        from seqcourse.grading import end_to_end as pipeline

        found += pipeline.differences(name, source, results)
    return found
