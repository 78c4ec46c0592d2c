"""The `seqcourse` command. Groups load only when they are called, so that `seqcourse --help` is quick."""

from __future__ import annotations

import importlib

import click

import seqcourse

# Command -> (module, object, one line for --help).
_COMMANDS = {
    "data": ("seqcourse.cli_data", "data", "List, fetch and verify the data sets."),
    "train": ("seqcourse.cli_train", "train_cmd", "Train a checkpoint of the package from scratch."),
    "bench": ("seqcourse.cli_bench", "bench", "Run a benchmark and write its records."),
    "book": ("seqcourse.tasks", "book", "Run the notebooks and build the site (in a checkout)."),
    "serve": ("seqcourse.tasks", "serve", "Serve the built site on this machine."),
    "test": ("seqcourse.tasks", "test", "Run everything CI checks (in a checkout)."),
    "lint": ("seqcourse.tasks", "lint", "Check style, in modules and in notebooks."),
    "notebooks": ("seqcourse.tasks", "notebooks", "Run every notebook again and compare its outputs."),
    "release": ("seqcourse.grading.cli_release", "release_cmd", "Generate the exercises from solutions/."),
    "mutants": (
        "seqcourse.grading.cli_mutants",
        "mutants_cmd",
        "Grade the graders: wrong and right answers.",
    ),
    "collect": ("seqcourse.grading.cli_collect", "collect_cmd", "Take in what students handed in."),
    "grade": ("seqcourse.grading.cli_grade", "grade_cmd", "Autograde a class, safely; resumable."),
    "marks": ("seqcourse.grading.cli_marks", "marks_cmd", "Export marks, hand marks included."),
    "clean": ("seqcourse.tasks", "clean", "Remove everything that was built."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        module, attribute, _ = _COMMANDS[name]
        return getattr(importlib.import_module(module), attribute)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, about) for name, (_, _, about) in _COMMANDS.items()])


@click.group(cls=LazyGroup)
@click.version_option(seqcourse.__version__, prog_name="seqcourse")
def main() -> None:
    """seqcourse: from a vanilla RNN to the Transformer, every claim measured."""
