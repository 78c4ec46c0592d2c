"""The project's own files agree with each other, and with what they promise."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def pyproject() -> dict:
    return tomllib.loads(read("pyproject.toml"))


@pytest.fixture(scope="module")
def pins() -> dict[str, str]:
    lines = [line.split("#")[0].split(";")[0].strip() for line in read("constraints.txt").splitlines()]
    return dict(line.lower().replace("_", "-").split("==") for line in lines if line)


def test_top_level_is_the_fixed_layout():
    expected = {
        "book",
        "exercises",
        "solutions",
        "seqcourse",
        "tests",
        "_config.yml",
        "environment.yml",
        "README.md",
    }
    assert expected <= {path.name for path in ROOT.iterdir()}


def test_environment_yml_installs_this_project_with_the_same_extras_and_pins(pyproject):
    environment = yaml.safe_load(read("environment.yml"))
    pip = next(d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
    assert "--constraint constraints.txt" in pip
    extras = re.search(r"--editable \.\[(.*)\]", " ".join(pip)).group(1).split(",")
    assert set(extras) == {"book", "grade", "test"} <= set(pyproject["project"]["optional-dependencies"])
    assert f'--editable ".[{",".join(extras)}]"' in read("Makefile"), (
        "make and conda must install the same extras"
    )
    python = next(d for d in environment["dependencies"] if isinstance(d, str) and d.startswith("python"))
    assert python.removeprefix("python") == pyproject["project"]["requires-python"]


def test_environment_yml_names_no_package_that_pyproject_owns():
    conda = [d for d in yaml.safe_load(read("environment.yml"))["dependencies"] if isinstance(d, str)]
    assert {re.split("[<>=]", d)[0] for d in conda} == {"python", "pip", "git"}


def test_every_direct_dependency_is_pinned(pyproject, pins):
    extras = pyproject["project"]["optional-dependencies"]
    direct = pyproject["project"]["dependencies"] + [d for extra in extras.values() for d in extra]
    names = {re.split("[<>=!~ ]", d)[0].lower() for d in direct}
    assert names <= set(pins), f"not in constraints.txt: {sorted(names - set(pins))}"


def test_installed_versions_are_the_pinned_ones(pins):
    import sysconfig
    from importlib.metadata import distributions

    # Not all of sys.path: whoever imports setuptools puts the packages that it carries inside there, too.
    places = [sysconfig.get_path(kind) for kind in ("purelib", "platlib")]
    installed = {
        d.metadata["Name"].lower().replace("_", "-"): d.version.split("+")[0]
        for d in distributions(path=places)
    }
    differing = {
        n: (v, installed[n]) for n, v in pins.items() if n in installed and installed[n] != v.split("+")[0]
    }
    assert not differing, f"(pinned, installed): {differing}"


def test_book_stays_on_jupyter_book_1(pins):
    assert pins["jupyter-book"].startswith("1.")
    assert pins["torch"] == "2.13.0"


def test_precommit_and_ci_use_the_same_ruff(pins):
    hooks = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"]
    ruff = next(repo for repo in hooks if "ruff" in repo["repo"])
    assert ruff["rev"] == f"v{pins['ruff']}"


def test_plain_make_lists_every_target():
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = re.findall(r"^([a-z]+):", read("Makefile"), flags=re.M)
    assert {"book", "test", "serve", "lint", "notebooks", "clean"} <= set(targets)
    assert all(re.search(rf"^  {target}\b", listed, flags=re.M) for target in targets)


def test_every_make_task_is_reachable_without_make():
    shown = subprocess.run(
        [sys.executable, "-m", "seqcourse", "--help"], capture_output=True, text=True, check=True
    ).stdout
    for task in ("book", "serve", "test", "lint", "notebooks", "clean", "data", "bench"):
        assert re.search(rf"^  {task}\b", shown, flags=re.M)


def test_importing_seqcourse_is_light():
    heavy = ["torch", "numpy", "matplotlib", "pandas", "tokenizers", "pooch", "IPython"]
    code = f"import sys, seqcourse; print([m for m in {heavy} if m in sys.modules])"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )


@pytest.mark.parametrize("module", ["cells", "recurrent", "training", "models", "data", "probes", "records"])
def test_modules_import_nothing_heavier_than_torch(module):
    heavy = [
        "matplotlib",
        "pandas",
        "tokenizers",
        "pooch",
        "IPython",
        "tensorboard",
        "lightning_fabric",
        "ipywidgets",
    ]
    code = f"import sys, seqcourse.{module}; print([m for m in {heavy} if m in sys.modules])"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )


def test_tasks_outside_a_checkout_say_what_to_do(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "seqcourse", "book"], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 1
    assert "checkout" in result.stderr and str(tmp_path) in result.stderr


def test_tracked_files_name_no_path_of_one_machine():
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    pattern = re.compile(r"(?<![\w.])/(?:work|home/[a-z]+|Users/[a-z]+|root)/")
    texts = {
        name: (ROOT / name).read_text(encoding="utf-8", errors="ignore")
        for name in tracked
        if (ROOT / name).is_file()
    }
    assert not {name: pattern.findall(text) for name, text in texts.items() if pattern.search(text)}
