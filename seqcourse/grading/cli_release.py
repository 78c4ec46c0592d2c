"""`seqcourse release`: make the exercises from their sources, or check that they are made and right."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import click


@click.command()
@click.argument("names", nargs=-1)
@click.option("--check", is_flag=True, help="Write nothing; fail if a release is stale or has problems.")
@click.option(
    "--run", is_flag=True, help="Also run each released notebook: it must fail in its graded cells."
)
def release_cmd(names: tuple[str, ...], check: bool, run: bool) -> None:
    """Make exercises/ from solutions/NN-name.md (all of them, or NAMES), and list what is wrong with them."""
    from seqcourse.grading import authoring  # brings nbgrader, which takes a while

    names = names or tuple(authoring.exercise_names())
    for name in () if check else names:
        click.echo(f"{name}: released")
        authoring.release(name)
    bad = 0
    with ThreadPoolExecutor(2) as pool:  # each notebook's kernel is a process of its own
        failures = pool.map(authoring.release_failures, names) if run else ([] for _ in names)
        for name, failed in zip(names, failures, strict=True):
            found = authoring.problems(name) + failed
            for problem in found:
                click.secho(f"{name}: {problem}", fg="red", err=True)
            bad += bool(found)
    if bad:
        raise click.ClickException(f"{bad} with problems: see above.")
