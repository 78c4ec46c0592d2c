"""`python -m seqcourse` is the `seqcourse` command."""

from seqcourse.cli import main

main(prog_name="seqcourse")
