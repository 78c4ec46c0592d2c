"""``seqcourse train``: train one of the package's checkpoints from scratch."""

from __future__ import annotations

from pathlib import Path

import click


class _Name(click.ParamType):
    """A checkpoint's name; what the names are is looked up only when one is given."""

    name = "name"

    def convert(self, value, param, ctx):
        from seqcourse.pretrained import entry

        try:
            entry(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return value


@click.command("train")
@click.argument("name", type=_Name(), required=False)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("checkpoints"),
    show_default=True,
    help="Folder for weights, tokenisers and records; pass it to seqcourse.pretrained.load.",
)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, mps, or auto.")
@click.option("--resume/--no-resume", default=True, show_default=True, help="Go on where it stopped.")
@click.option("--generated", is_flag=True, help="Train on generated sentences, not on Multi30k.")
def train_cmd(name: str | None, out: Path, device: str, resume: bool, generated: bool) -> None:
    """Train the checkpoint NAME from scratch; without NAME, list them.

    Takes minutes on one core. The ones that come with the package were made by this command.
    """
    from seqcourse.pretrained import train

    if name is None:
        click.echo(listing())
        return
    from seqcourse.data import load_multi30k
    from seqcourse.runtime import pick_device

    text = load_multi30k(("de", "en"), generated=generated or None)
    click.echo(text.source.headline)
    trained = train(name, out, text=text, device=str(pick_device(device)), resume=resume)
    click.echo("\n".join(str(record) for record in trained.records))
    click.echo(f"Written to {out}")


def listing() -> str:
    """Every checkpoint, and what its record says."""
    from seqcourse.pretrained import load, names

    lines = []
    for name in names():
        try:
            lines += [str(record) for record in load(name).records]
        except FileNotFoundError:
            lines.append(f"{name}: not here")
    return "\n".join(lines)
