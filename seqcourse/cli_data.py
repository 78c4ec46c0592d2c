"""`seqcourse data`: list, fetch and verify the data sets. Imports no torch, so that it starts at once."""

from __future__ import annotations

from collections import Counter

import click

from seqcourse.data.registry import Dataset, dataset, datasets


@click.group()
def data() -> None:
    """List, fetch and verify the data sets.

    SEQCOURSE_DATA_DIR names the cache, SEQCOURSE_MIRROR a folder or URL to fetch from first,
    SEQCOURSE_OFFLINE=1 forbids the network.
    """


def _store():
    from seqcourse.data.fetch import Store

    return Store.from_environment()


def _chosen(names: tuple[str, ...]) -> list[Dataset]:
    try:
        return [dataset(name) for name in names]
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


@data.command("list")
def list_() -> None:
    """Show every data set: files, size, where it is at hand, licence."""
    store = _store()
    click.echo(f"{'name':<21}{'files':>6}{'size':>10}  {'state':<20}licence")
    for entry in datasets().values():
        name = f"{entry.name} *" if entry.book else entry.name
        size = _megabytes(entry.bytes)
        click.echo(f"{name:<21}{len(entry.content):>6}{size:>10}  {_state(store, entry):<20}{entry.licence}")
    click.echo(f"\n* used by the book. Cache: {store.directory}. Mirror: {store.mirror or 'none'}.")


def _state(store, entry: Dataset) -> str:
    states = Counter(store.state(file) for file in entry.content)
    if len(states) == 1:
        return next(iter(states))
    return ", ".join(f"{count} {state}" for state, count in sorted(states.items()))


@data.command()
@click.argument("names", nargs=-1)
@click.option("--book", is_flag=True, help="The data sets that the book's pages use.")
@click.option("--all", "everything", is_flag=True, help="Every data set (about 120 MB).")
@click.option(
    "--allow-missing", is_flag=True, help="Succeed all the same; say what will be generated instead."
)
def fetch(names: tuple[str, ...], book: bool, everything: bool, allow_missing: bool) -> None:
    """Bring data sets into the cache, with every hash checked."""
    chosen = {entry.name: entry for entry in _chosen(names)}
    chosen |= {entry.name: entry for entry in datasets().values() if everything or (book and entry.book)}
    if not chosen:
        raise click.UsageError("name data sets, or give --book or --all; `seqcourse data list` shows them")
    store = _store()
    store.forget_failures()
    missing = [entry for entry in chosen.values() if not _fetch_one(store, entry)]
    _report_missing(missing, len(chosen), allow_missing)


def _fetch_one(store, entry: Dataset) -> bool:
    from seqcourse.data.source import DataUnavailable

    try:
        store.obtain(entry)
    except DataUnavailable as problem:
        click.secho(f"{entry.name}: NOT available. {problem}", fg="red", err=True)
        return False
    click.echo(f"{entry.name}: complete and checked ({_megabytes(entry.bytes)}).")
    return True


def _report_missing(missing: list[Dataset], total: int, allow_missing: bool) -> None:
    if not missing:
        return
    names = ", ".join(entry.name for entry in missing)
    click.secho(f"{len(missing)} of {total} data sets are missing: {names}.", fg="yellow", err=True)
    click.secho(
        "GENERATED stand-ins will take their place; every page and record that uses one says so.",
        fg="yellow",
        err=True,
    )
    if not allow_missing:
        raise SystemExit(1)


@data.command()
@click.argument("names", nargs=-1)
def verify(names: tuple[str, ...]) -> None:
    """Check every cached file (of the data sets NAMES, or of all) to the last byte."""
    store = _store()
    damaged, counts = [], Counter()
    for entry in _chosen(names) or datasets().values():
        for file in entry.content:
            verdict = store.verify(file)
            counts[verdict.split(":")[0]] += 1
            if verdict.startswith("damaged"):
                damaged.append(f"{file.path}: {verdict}")
    for line in damaged:
        click.secho(line, fg="red", err=True)
    click.echo(f"{counts['ok']} files ok, {counts['damaged']} damaged, {counts['missing']} not in the cache.")
    if damaged:
        click.echo("A damaged file is fetched anew at its next use, or now by `seqcourse data fetch NAME`.")
        raise SystemExit(1)
