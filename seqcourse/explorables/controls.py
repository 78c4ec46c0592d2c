"""Plain ipywidgets controls that drive a real model. They need a kernel; without one there is a note."""

from __future__ import annotations

import copy
import html
from collections.abc import Callable
from typing import Any

import ipywidgets as widgets
import torch
from torch import nn

from seqcourse import plots
from seqcourse.data.tokenisation import Tokeniser
from seqcourse.models.language_model import LanguageModel
from seqcourse.probes import (
    DELAYED_RECALL,
    SequenceModel,
    cell_state_gradients,
    delayed_recall,
    forget_gate_products,
)
from seqcourse.recurrent import LSTM

WIDE = {"description_width": "9em"}


class Controls(widgets.VBox):
    """Controls in a column that leave a note where no kernel listens to them.

    Args:
        note: what the reader of a page without a kernel misses.
        children: the widgets.
    """

    def __init__(self, note: str, children: list[widgets.Widget]) -> None:
        super().__init__(children)
        self.note = f"In JupyterLab this cell gives controls: {note}"

    def _repr_mimebundle_(self, **options: Any) -> dict | None:
        bundle = super()._repr_mimebundle_(**options)
        if bundle is None:
            return None
        return {**bundle, "text/plain": self.note, "text/html": f"<p><em>{html.escape(self.note)}</em></p>"}


def drive_language_model(
    model: LanguageModel, tokeniser: Tokeniser, *, prompt: str = "The ", seed: int = 0
) -> Controls:
    """Controls that let a language model write: prompt, temperature, length, and a button.

    Args:
        model: a trained language model.
        tokeniser: the one it was trained with.
        prompt: the text to start from.
        seed: of the sampling; each click draws on from there.
    """
    generator = torch.Generator().manual_seed(seed)
    start = widgets.Text(prompt, description="prompt", style=WIDE)
    temperature = widgets.FloatSlider(0.8, min=0.1, max=2.0, step=0.1, description="temperature", style=WIDE)
    length = widgets.IntSlider(200, min=10, max=1000, step=10, description="tokens", style=WIDE)
    button = widgets.Button(description="Generate")
    progress = widgets.IntProgress(0, max=length.value)
    text = widgets.HTML()

    def generate(_: widgets.Button) -> None:
        ids = tokeniser.encode(start.value) or [tokeniser.begin_id]
        progress.value, progress.max = 0, length.value
        for token in model.generate(ids, length.value, temperature.value, generator=generator):
            ids = [*ids, token]
            progress.value += 1
            text.value = f'<pre style="white-space: pre-wrap">{html.escape(tokeniser.decode(ids))}</pre>'

    button.on_click(generate)
    note = "choose a prompt, a temperature and a length, and the model writes."
    return Controls(note, [start, temperature, length, widgets.HBox([button, progress]), text])


def drive_lstm(model: LSTM | None = None, *, steps: int = 300, seed: int = 0) -> Controls:
    """Sliders for T and the forget bias of an LSTM: how far does the gradient of its cell state reach?

    Without a model a new one is made, and a button trains it on delayed recall over T steps.

    Args:
        model: a trained LSTM layer, which stays as it is; the slider's bias is added to that of a copy.
        steps: training steps behind the button.
        seed: of the new model, of the inputs and of the training.
    """
    original = model or seeded(seed, lambda: LSTM(DELAYED_RECALL.input_size, 16))
    length = widgets.IntSlider(30, min=5, max=100, step=5, description="steps T", style=WIDE)
    bias = widgets.FloatSlider(0.0, min=-4, max=6, step=0.5, description="added forget bias", style=WIDE)
    picture = widgets.HTML()

    def draw(_: Any = None) -> None:
        changed = with_forget_bias(original, bias.value)
        picture.value = gradient_picture(changed, length.value, seed)._repr_html_()

    length.observe(draw, "value")
    bias.observe(draw, "value")
    draw()
    note = "slide T and the forget bias of an LSTM, and see how far the gradient of its cell state reaches."
    children = [length, bias, picture]
    if model is None:
        children += trainer(lambda: with_forget_bias(original, bias.value), length, steps, seed)
    return Controls(note, children)


def seeded(seed: int, build: Callable[[], nn.Module]) -> nn.Module:
    """Build a module whose random weights depend on the seed alone; torch's own generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def with_forget_bias(model: LSTM, added: float) -> LSTM:
    """A copy of an LSTM with a number added to every bias of its forget gates."""
    changed = copy.deepcopy(model)
    with torch.no_grad():
        for cell in changed.cells:
            cell.bias_ih[cell.hidden_size : 2 * cell.hidden_size] += added
    return changed


def gradient_picture(model: LSTM, length: int, seed: int) -> plots.ShownFigure:
    """The gradient of the last cell state against the lag, on random input."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(8, length, model.input_size, generator=generator)  # (B, T, D)
    through_all, along_cell = cell_state_gradients(model, x), forget_gate_products(model, x)
    alt = (
        f"Gradient of the last cell state at lag {length - 1}: {through_all[-1]:.2g} through every "
        f"path, {along_cell[-1]:.2g} along the cell state alone."
    )
    series = {"through every path": through_all.tolist(), "product of forget gates": along_cell.tolist()}
    return plots.line(series, xlabel="lag", ylabel="gradient", log_y=True, alt=alt)


def trainer(
    build: Callable[[], LSTM], length: widgets.IntSlider, steps: int, seed: int
) -> list[widgets.Widget]:
    """A button that trains on delayed recall over T steps, with a progress bar and the result."""
    button = widgets.Button(description="Train")
    progress = widgets.IntProgress(0, max=steps)
    result = widgets.Label()

    def train(_: widgets.Button) -> None:
        button.disabled, progress.value = True, 0
        accuracy = train_on_recall(build(), length.value, steps, seed, lambda step: advance(progress, step))
        result.value = f"T = {length.value}: after {steps} steps it recalls {accuracy:.0%} of the symbols."
        button.disabled = False

    button.on_click(train)
    return [widgets.HBox([button, progress]), result]


def advance(progress: widgets.IntProgress, step: int) -> None:
    """Move a progress bar on."""
    progress.value = step


def train_on_recall(lstm: LSTM, delay: int, steps: int, seed: int, tell: Callable[[int], None]) -> float:
    """Train an LSTM to recall the first of 8 symbols after a delay; return the accuracy on fresh sequences.

    Args:
        lstm: the layer; it is trained in place.
        delay: steps between the symbol and the question.
        steps: of training.
        seed: of the readout's weights and of the sequences.
        tell: called with the number of steps done.
    """
    generator = torch.Generator().manual_seed(seed)
    model = seeded(seed, lambda: SequenceModel(lstm, DELAYED_RECALL.output_size))
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    for step in range(1, steps + 1):
        x, target = delayed_recall(delay, 32, generator)
        optimiser.zero_grad()
        DELAYED_RECALL.loss(model(x), target).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        tell(step)
    with torch.no_grad():
        x, target = delayed_recall(delay, 256, generator)
        return DELAYED_RECALL.score(model(x), target)
