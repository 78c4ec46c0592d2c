"""``seqcourse bench``: list the benchmarks with their cost, run one, write its records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from seqcourse.benchmarks import PROFILES, Benchmark, discover, run_benchmark
from seqcourse.records import Table, read, table


class _Benchmarks(click.Group):
    """One command for each benchmark found, and ``list``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return ["list", *discover()]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name == "list":
            return _list
        benchmark = discover().get(name)
        return _command(benchmark) if benchmark else None


@click.group(cls=_Benchmarks)
def bench() -> None:
    """Run a benchmark and write its records; `seqcourse bench list` says what each costs."""


@click.command("list", help="Show every benchmark and what each profile of it costs.")
def _list() -> None:
    for benchmark in discover().values():
        click.echo(f"{benchmark.name}: {benchmark.about}\n{cost_table(benchmark)}\n")


def cost_table(benchmark: Benchmark) -> Table:
    """What each profile of a benchmark costs."""
    return Table("Cost", ("profile", "what it takes"), tuple(benchmark.cost.items()))


def _command(benchmark: Benchmark) -> click.Command:
    @click.command(benchmark.name, help=f"{benchmark.about}\n\n\b\n{cost_table(benchmark)}")
    @click.option("--profile", type=click.Choice(PROFILES), default="smoke", show_default=True)
    @click.option("--device", default="cpu", show_default=True, help="cpu, cuda, mps, or auto.")
    @click.option("--seeds", type=click.IntRange(min=1), help="Number of seeds; default the profile's own.")
    @click.option(
        "--resume/--no-resume",
        default=True,
        show_default=True,
        help="Keep finished work of an interrupted run.",
    )
    @click.option(
        "--out",
        type=click.Path(path_type=Path, file_okay=False),
        help="Folder for the records; default book/records in a checkout, else here.",
    )
    @click.option(
        "--log-dir",
        type=click.Path(path_type=Path, file_okay=False),
        help="Folder for TensorBoard events of training runs (those of memory tasks leave none).",
    )
    def run(profile: str, device: str, **options: Any) -> None:
        from seqcourse.benchmarks.processes import rank
        from seqcourse.runtime import pick_device

        device = str(pick_device(device))
        if rank() > 0:  # one of several processes: the first one speaks
            run_benchmark(benchmark, profile, device=device, **options)
            return
        click.echo(f"{benchmark.name}: {benchmark.about}\n{cost_table(benchmark)}\n")
        click.echo(f"Running {profile} on {device}: {benchmark.cost[profile]}.")
        path = run_benchmark(benchmark, profile, device=device, **options)
        click.echo(f"{table(read(path), caption=f'{benchmark.name}, {profile}')}\nWritten to {path}")

    return run
