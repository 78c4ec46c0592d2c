"""The explorables' JavaScript computes what the package computes, and their HTML stands by itself."""

from __future__ import annotations

import base64
import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import ipywidgets as widgets
import pytest
import torch

from seqcourse.cells import LSTMCell
from seqcourse.data.tokenisation import CharTokeniser
from seqcourse.explorables import Explorable, LSTMStep, drive_language_model, drive_lstm
from seqcourse.models import LanguageModel
from seqcourse.recurrent import LSTM

CASES = 300
MODULE = Path(__file__).parents[1] / "seqcourse" / "explorables" / "lstm_step.mjs"


def node() -> str:
    """Node.js: the system's, else the one inside Playwright's package. Without either the test fails."""
    found = shutil.which("node")
    if found is None:
        from playwright._impl._driver import compute_driver_executable

        found = str(compute_driver_executable()[0])
    return found


def evaluate(expression: str, argument: object) -> object:
    """Evaluate JavaScript that sees the explorable's module as `lstm` and the argument as `given`."""
    script = (
        f"import * as lstm from {json.dumps(MODULE.as_uri())};\n"
        "let text = ''; for await (const part of process.stdin) text += part;\n"
        f"const given = JSON.parse(text);\nprocess.stdout.write(JSON.stringify({expression}));\n"
    )
    command = [node(), "--input-type=module", "--eval", script]
    done = subprocess.run(command, input=json.dumps(argument), text=True, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def double(numbers: list) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def cell_with(parameters: dict[str, list[float]]) -> LSTMCell:
    cell = LSTMCell(1, 1, dtype=torch.float64)
    with torch.no_grad():
        cell.weight_ih.copy_(double(parameters["weight_ih"])[:, None])
        cell.weight_hh.copy_(double(parameters["weight_hh"])[:, None])
        cell.bias_ih.copy_(double(parameters["bias"]))
        cell.bias_hh.zero_()
    return cell


def random_parameters(generator: torch.Generator) -> dict[str, list[float]]:
    draw = 4 * torch.randn(3, 4, generator=generator, dtype=torch.float64)
    return dict(zip(("weight_ih", "weight_hh", "bias"), draw.tolist(), strict=True))


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def test_step_is_that_of_the_cell(generator):
    cases = [
        {
            "parameters": random_parameters(generator),
            "given": (2 * torch.randn(3, generator=generator, dtype=torch.float64)).tolist(),
        }
        for _ in range(CASES)
    ]
    shown = evaluate("given.map(({given: [x, h, c], parameters}) => lstm.step(x, h, c, parameters))", cases)
    for case, values in zip(cases, shown, strict=True):
        x, hidden, cell_state = (double([[value]]) for value in case["given"])
        cell = cell_with(case["parameters"])
        gates = cell.gates(cell.project(x), (hidden, cell_state))
        _, (new_hidden, new_cell) = cell(x, (hidden, cell_state))
        expected = {name: gate.item() for name, gate in gates._asdict().items()}
        expected |= {"hidden_state": new_hidden.item(), "cell_state": new_cell.item()}
        assert values == pytest.approx(expected, abs=1e-12, rel=1e-12)


def test_gradients_of_a_run_are_those_of_autograd(generator):
    cases = [
        {
            "parameters": random_parameters(generator),
            "inputs": torch.randn(9, generator=generator, dtype=torch.float64).tolist(),
        }
        for _ in range(20)
    ]
    shown = evaluate("given.map(({inputs, parameters}) => lstm.run(inputs, parameters))", cases)
    for case, run in zip(cases, shown, strict=True):
        cell = cell_with(case["parameters"])
        first = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
        state, product = (torch.zeros(1, 1, dtype=torch.float64), first), 1.0
        for x, values in zip(case["inputs"], run, strict=True):
            x_t = double([[x]])
            product *= cell.gates(cell.project(x_t), state).forget_gate.item()
            _, state = cell(x_t, state)
            (full,) = torch.autograd.grad(state[1], first, retain_graph=True)
            assert values["full"] == pytest.approx(full.item(), abs=1e-12, rel=1e-10)
            assert values["direct"] == pytest.approx(product, abs=1e-12, rel=1e-10)
            assert values["cell_state"] == pytest.approx(state[1].item(), abs=1e-12, rel=1e-12)


def test_presets_do_what_their_names_say():
    presets = evaluate("lstm.PRESETS", None)
    last = {
        name: evaluate("lstm.run(lstm.pulse(1, 30), given).at(-1)", parameters)
        for name, parameters in presets.items()
    }
    assert last["remember"]["direct"] > 0.9 and last["remember"]["cell_state"] > 0.8
    assert last["forget"]["direct"] < 1e-6 and abs(last["forget"]["cell_state"]) < 1e-6
    assert last["saturate"]["cell_state"] > 10 and last["saturate"]["hidden_state"] > 0.999


def test_page_copy_carries_module_and_values():
    explorable = LSTMStep(x=0.3, bias=[0.0, 5.0, 0.0, 0.0])
    page = explorable.page_copy()
    module = base64.b64decode(re.search(r'"data:text/javascript;base64,([^"]+)"', page)[1]).decode()
    values = json.loads(re.search(r"const values = (\{.*?\});", page)[1])
    assert module == MODULE.read_text(encoding="utf-8")
    assert values["x"] == 0.3 and values["bias"] == [0.0, 5.0, 0.0, 0.0]
    assert set(values) == {"x", "hidden_state", "cell_state", "weight_ih", "weight_hh", "bias", "steps"}
    assert html.escape(explorable.alternative) in page
    assert "http" not in page.replace("http://www.w3.org", "")


def test_ids_count_up_and_text_is_the_alternative():
    first, second = (LSTMStep()._repr_mimebundle_()[0] for _ in range(2))
    ids = [re.search(r'id="explorable-lstmstep-(\d+)"', bundle["text/html"])[1] for bundle in (first, second)]
    assert int(ids[1]) == int(ids[0]) + 1
    assert first["text/plain"] == LSTMStep.alternative
    assert "application/vnd.jupyter.widget-view+json" in first


def test_explorable_without_alternative_is_refused():
    with pytest.raises(TypeError, match="Silent needs `label` and `alternative`"):

        class Silent(Explorable):
            label = "silent"


# --- plain controls for JupyterLab ---------------------------------------------------------------------


@pytest.fixture
def small_model() -> tuple[LanguageModel, CharTokeniser]:
    tokeniser = CharTokeniser.train(["to be or not to be"])
    torch.manual_seed(0)
    return LanguageModel(len(tokeniser), 3, 5), tokeniser


def find(controls, kind, description=""):
    """The first widget of a kind below the controls."""
    for child in controls.children:
        if isinstance(child, kind) and description in getattr(child, "description", ""):
            return child
        if hasattr(child, "children") and (found := find(child, kind, description)) is not None:
            return found
    return None


def test_language_model_writes_on_a_click(small_model):
    controls = drive_language_model(*small_model, prompt="to be", seed=1)
    find(controls, widgets.IntSlider, "tokens").value = 20
    find(controls, widgets.Button).click()
    text = html.unescape(re.sub(r"<[^>]+>", "", find(controls, widgets.HTML).value))
    assert text.startswith("to be") and len(text) > 10
    assert find(controls, widgets.IntProgress).value == 20
    find(controls, widgets.Button).click()
    assert html.unescape(re.sub(r"<[^>]+>", "", find(controls, widgets.HTML).value)) != text


def test_forget_bias_slider_reaches_the_gradient():
    controls = drive_lstm(seed=3)
    picture = find(controls, widgets.HTML)

    def along_the_cell() -> float:
        return float(re.search(r"([0-9.e+-]+) along the cell state alone", picture.value)[1])

    before = along_the_cell()
    find(controls, widgets.FloatSlider, "forget bias").value = 6.0
    assert before < 1e-3 and along_the_cell() > 0.5
    find(controls, widgets.IntSlider, "steps T").value = 10
    assert "lag 9" in picture.value


def test_button_trains_and_shows_progress():
    controls = drive_lstm(steps=60)
    find(controls, widgets.IntSlider, "steps T").value = 5
    find(controls, widgets.Button).click()
    assert find(controls, widgets.IntProgress).value == 60
    accuracy = int(re.search(r"recalls (\d+)%", find(controls, widgets.Label).value)[1])
    assert accuracy > 40  # eight symbols: chance is 12.5 %


def test_a_trained_layer_stays_as_it_is():
    lstm = LSTM(3, 4)
    before = {name: tensor.clone() for name, tensor in lstm.state_dict().items()}
    controls = drive_lstm(lstm)
    find(controls, widgets.FloatSlider, "forget bias").value = 2.0
    assert all(torch.equal(tensor, before[name]) for name, tensor in lstm.state_dict().items())
    assert find(controls, widgets.Button) is None


def test_controls_leave_a_note_without_a_kernel(small_model):
    bundle = drive_language_model(*small_model)._repr_mimebundle_()
    assert "In JupyterLab" in bundle["text/plain"] and "<input" not in bundle["text/html"]
    assert "application/vnd.jupyter.widget-view+json" in bundle
