"""Inside the sandbox: IPython's shell without a kernel, whose outputs are collected and cut to a limit."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from traitlets import Type
from traitlets.config import Config


class Collector:
    """Outputs of one cell, as nbformat writes them; what exceeds the limit is dropped, with one remark."""

    def __init__(self) -> None:
        self.start(0)

    def start(self, limit: int) -> None:
        """Forget everything and accept `limit` characters."""
        self.outputs: list[dict[str, Any]] = []
        self.left = limit
        self.cut = False

    def write(self, stream: str, text: str) -> None:
        """Add text that was printed."""
        text = self._clip(text)
        last = self.outputs[-1] if self.outputs else {}
        if last.get("name") == stream:
            last["text"].append(text)
        elif text:
            self.outputs.append({"output_type": "stream", "name": stream, "text": [text]})

    def show(self, kind: str, data: dict[str, Any], **extra: Any) -> None:
        """Add rich output, representation by representation, as long as there is room."""
        kept = {mime: self._clip(value) for mime, value in data.items() if isinstance(value, str)}
        self.outputs.append({"output_type": kind, "data": kept, "metadata": {}, **extra})

    def fail(self, name: str, value: str, traceback: list[str]) -> None:
        """Add an error; it always fits, shortened."""
        lines = [clean(line, 2000) for line in traceback[-40:]]
        self.outputs.append(
            {"output_type": "error", "ename": name, "evalue": clean(value, 2000), "traceback": lines}
        )

    def finish(self) -> list[dict[str, Any]]:
        """The outputs, with a remark if something was dropped."""
        for output in self.outputs:
            if output["output_type"] == "stream":
                output["text"] = "".join(output["text"])
        if self.cut:
            remark = "\n[The rest of this cell's output was dropped: it is too long.]\n"
            self.outputs.append({"output_type": "stream", "name": "stdout", "text": remark})
        return self.outputs

    def _clip(self, text: str) -> str:
        if self.left <= 0:  # the common case of an output flood: no work at all
            self.cut = self.cut or bool(text)
            return ""
        kept = clean(text, self.left)
        self.cut = self.cut or len(text) > self.left
        self.left -= len(kept)
        return kept


def clean(text: str, limit: int) -> str:
    """At most `limit` characters that UTF-8 can hold."""
    return str(text)[:limit].encode("utf-8", "replace").decode("utf-8")


class Stream(io.TextIOBase):
    """sys.stdout or sys.stderr of student code."""

    encoding = "utf-8"

    def __init__(self, name: str, collector: Collector) -> None:
        self._name, self._collector = name, collector

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, text: str) -> int:
        """Hand `text` to the collector."""
        if not isinstance(text, str):
            raise TypeError(f"expected str, got {type(text).__name__}")
        self._collector.write(self._name, text)
        return len(text)


class _Publisher(DisplayPublisher):
    def publish(self, data, metadata=None, **_):  # display(...), figures
        self.shell.collector.show("display_data", data)


class _Hook(DisplayHook):
    def write_output_prompt(self) -> None:
        pass

    def write_format_data(self, format_dict, md_dict=None) -> None:  # the value of a cell's last line
        count = self.shell.execution_count
        self.shell.collector.show("execute_result", format_dict, execution_count=count)

    def finish_displayhook(self) -> None:
        self._is_active = False


class Shell(InteractiveShell):
    """InteractiveShell without terminal and history file; everything shown goes to `collector`."""

    displayhook_class = Type(_Hook)
    display_pub_class = Type(_Publisher)

    def _showtraceback(self, etype, evalue, stb) -> None:
        self.collector.fail(etype.__name__, str(evalue), stb)

    def run(self, source: str, limit: int) -> list[dict[str, Any]]:
        """Run one cell and return its outputs."""
        self.collector.start(limit)
        self.run_cell(source, store_history=True)
        return self.collector.finish()


def build_shell() -> Shell:
    """The one shell of a zygote; every submission gets it by fork."""
    config = Config()
    config.HistoryManager.enabled = False  # neither a file nor a thread, which a fork would lose
    config.InteractiveShell.xmode = "Plain"  # short, and no reading of source files
    config.InteractiveShell.colors = "nocolor"
    shell = Shell.instance(config=config)
    shell.collector = Collector()
    # A decoy: in Jupyter the shell has a kernel, and replacing its methods is a known way to fake results.
    shell.kernel = SimpleNamespace(do_execute=None, shell=None)
    return shell
