"""Reads answers before they run, for code that no exercise needs. A hit is a remark for the instructor, no penalty."""

from __future__ import annotations

import ast
import threading

# In CPython 3.11 two threads that build syntax trees at once disturb each other: "AST constructor recursion
# depth mismatch" (gh-106905). The grader runs a submission per thread.
_ONE_AT_A_TIME = threading.Lock()
MODULES = frozenset(
    "ctypes os subprocess multiprocessing threading _thread gc sys inspect importlib signal socket shutil pathlib io "
    "tempfile builtins types code codeop dis marshal pickle mmap fcntl resource pty posix atexit traceback linecache "
    "asyncio concurrent urllib requests http cffi IPython nbgrader psutil site faulthandler tracemalloc".split()
)
NAMES = frozenset(
    "__builtins__ __import__ get_ipython exec eval compile open globals locals vars In Out".split()
)
ATTRIBUTES = frozenset(
    "f_back f_globals f_locals f_builtins f_code f_trace f_lineno tb_frame tb_next gi_frame cr_frame ag_frame "
    "__globals__ __code__ __closure__ __builtins__ __subclasses__ __mro__ __loader__ __spec__ __reduce__ __traceback__ "
    "__torch_function__ __torch_dispatch__ _getframe settrace setprofile ast_transformers run_cell".split()
)


def suspicions(source: str) -> list[str]:
    """What in `source` deserves a look, each once, with its line; empty for ordinary answers."""
    try:
        with _ONE_AT_A_TIME:
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        # Also IPython's magics: without a tree nothing is known, so nothing is trusted.
        return ["suspicious: an answer is not plain Python"] if source.strip() else []
    found: dict[str, int] = {}
    for node in ast.walk(tree):
        for what in _what(node):
            found.setdefault(what, getattr(node, "lineno", 0))
    return [f"suspicious: {what} (line {line} of the answers)" for what, line in sorted(found.items())]


def _what(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [f"import {alias.name}" for alias in node.names if alias.name.partition(".")[0] in MODULES]
    if isinstance(node, ast.ImportFrom):
        module = (node.module or "").partition(".")[0]
        return [f"from {node.module} import ..."] if module in MODULES else []
    if isinstance(node, ast.Name) and node.id in NAMES:
        return [node.id]
    if isinstance(node, ast.Attribute) and node.attr in ATTRIBUTES:
        return [f".{node.attr}"]
    return _assigned(node)


def _assigned(node: ast.AST) -> list[str]:
    """Assignments to an attribute of a library, such as torch.allclose = ..."""
    targets = node.targets if isinstance(node, ast.Assign) else []
    return [
        f"{ast.unparse(target)} = ..."
        for target in targets
        if isinstance(target, ast.Attribute) and _root(target) in ("torch", "nn", "F", "np", "numpy", "math")
    ]


def _root(node: ast.expr) -> str:
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""
