"""Inside the sandbox: has student code replaced what the tests rely on?

A picture of builtins, torch, numpy, the course's checks and IPython's shell is taken before any student code runs.
It holds the objects themselves, so that no id is used twice, and is compared before and after every test.
"""

from __future__ import annotations

import builtins
import importlib
import importlib.util
import types
from typing import Any

MODULES = (
    "builtins",
    "math",
    "json",
    "numpy",
    "numpy.testing",
    "torch",
    "torch.autograd",
    "torch.nn",
    "torch.nn.functional",
    "torch.testing",
    "seqcourse.checks",
    "seqcourse.grading.channel",
    "seqcourse.grading.runner",
    "seqcourse.grading.integrity",
    "seqcourse.grading.capture",
)
CLASSES = (
    ("torch", "Tensor"),
    ("torch.nn", "Module"),
    ("torch.nn", "RNNCell"),
    ("torch.nn", "LSTMCell"),
    ("torch.nn", "GRUCell"),
    ("torch.nn", "RNN"),
    ("torch.nn", "LSTM"),
    ("torch.nn", "GRU"),
    ("torch.nn", "Linear"),
)
_BUILTIN_NAMES = frozenset(vars(builtins))
_WATCHED = (types.ModuleType, types.FunctionType, types.BuiltinFunctionType, type)


class Guard:
    """Pictures of modules, classes, functions and the shell; `changes` says what is no longer as it was."""

    def __init__(self, shell: Any) -> None:
        self.shell = shell
        self.modules = {name: importlib.import_module(name) for name in MODULES if _exists(name)}
        self.names = {name: _watched(module) for name, module in self.modules.items()}
        self.all_names = {name: frozenset(vars(module)) for name, module in self.modules.items()}
        self.classes = [
            (getattr(self.modules[m], c), dict(vars(getattr(self.modules[m], c)))) for m, c in CLASSES
        ]
        self.classes.append((type(shell), dict(vars(type(shell)))))
        self.bodies = [(f, _body(f)) for f in self._functions()]
        self.shell_names = set(vars(shell))
        self.transformers = [list(part) for part in self._transformers()]
        self.kernel = dict(vars(shell.kernel))

    def changes(self) -> list[str]:
        """Names of what student code replaced; empty for honest work."""
        return [*self._in_modules(), *self._in_classes(), *self._in_functions(), *self._in_shell()]

    def _in_modules(self) -> list[str]:
        return [
            f"{name}.{key}"
            for name, module in self.modules.items()
            for key in _differences(self.names[name], self.all_names[name], vars(module))
        ]

    def _in_classes(self) -> list[str]:
        return [
            f"{cls.__qualname__}.{key}"
            for cls, before in self.classes
            for key in before.keys() | vars(cls).keys()
            if before.get(key) is not vars(cls).get(key) and key not in _MADE_ON_DEMAND
        ]

    def _in_functions(self) -> list[str]:
        return [f"{f.__module__}.{f.__qualname__}" for f, body in self.bodies if not _same(body, _body(f))]

    def _in_shell(self) -> list[str]:
        added = [
            f"shell.{k}" for k, v in vars(self.shell).items() if k not in self.shell_names and callable(v)
        ]
        changed = (
            ["shell transformers"] if [list(p) for p in self._transformers()] != self.transformers else []
        )
        kernel = ["shell.kernel"] if vars(self.shell.kernel) != self.kernel else []
        return added + changed + kernel

    def _transformers(self) -> tuple[list[Any], ...]:
        manager = self.shell.input_transformer_manager
        return (
            self.shell.ast_transformers,
            self.shell.input_transformers_post,
            manager.cleanup_transforms,
            manager.line_transforms,
            manager.token_transformers,
        )

    def _functions(self) -> list[types.FunctionType]:
        """Python functions whose code object could be swapped while the name stays."""
        own = [m for name, m in self.modules.items() if name.startswith(("seqcourse", "torch.testing"))]
        found = [v for module in own for v in vars(module).values() if isinstance(v, types.FunctionType)]
        return found + [
            v for cls, names in self.classes for v in names.values() if isinstance(v, types.FunctionType)
        ]


# Python itself writes these on first use.
_MADE_ON_DEMAND = frozenset(
    {"__annotations__", "__doc__", "__abstractmethods__", "_abc_impl", "__weakref__", "__slotnames__"}
)


def _exists(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _watched(module: types.ModuleType) -> dict[str, Any]:
    return {key: value for key, value in vars(module).items() if isinstance(value, _WATCHED)}


def _differences(before: dict[str, Any], known: frozenset[str], now: dict[str, Any]) -> list[str]:
    """Changed and deleted names, and new ones that hide a builtin of that module. Lazy imports only add."""
    changed = [key for key, value in before.items() if now.get(key) is not value]
    return changed + [key for key in (_BUILTIN_NAMES & now.keys()) - known if not key.startswith("__")]


def _body(function: types.FunctionType) -> tuple[Any, ...]:
    return (function.__code__, function.__defaults__, function.__kwdefaults__)


def _same(before: tuple[Any, ...], now: tuple[Any, ...]) -> bool:
    return all(a is b for a, b in zip(before, now, strict=True))
