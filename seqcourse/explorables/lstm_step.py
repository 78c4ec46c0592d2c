"""An LSTM of one unit whose inputs, weights and biases are sliders."""

from __future__ import annotations

import traitlets

from seqcourse.explorables.base import FOLDER, Explorable

GATES = ("input_gate", "forget_gate", "candidate", "output_gate")  # torch's order


class LSTMStep(Explorable):
    """One step of a one-unit LSTM with live gates, and the same LSTM run over a pulse.

    The arithmetic is that of :class:`seqcourse.cells.LSTMCell` with input size 1 and hidden size 1; a test
    compares the two. Four numbers per parameter, in torch's order: input gate, forget gate, candidate, output
    gate.

    Args:
        x: the input.
        hidden_state: the hidden state before the step.
        cell_state: the cell state before the step.
        weight_ih: weights of the input, one per gate.
        weight_hh: weights of the hidden state, one per gate.
        bias: biases, one per gate.
        steps: T, how many steps the run takes.
    """

    _esm = FOLDER / "lstm_step.mjs"
    label = "LSTM step with live gates"
    alternative = (
        "An LSTM of one unit with sliders for its input, its states and the parameters of its gates. "
        "A forget gate near 1 keeps the cell state, and the gradient along it, alive over many steps; "
        "at 0.5 both have shrunk a thousandfold after ten steps."
    )

    x = traitlets.Float(1.0).tag(sync=True)
    hidden_state = traitlets.Float(0.0).tag(sync=True)
    cell_state = traitlets.Float(0.5).tag(sync=True)
    weight_ih = traitlets.List(traitlets.Float(), [2.0, 0.0, 2.0, 0.0], minlen=4, maxlen=4).tag(sync=True)
    weight_hh = traitlets.List(traitlets.Float(), [0.0, 0.0, 0.0, 0.0], minlen=4, maxlen=4).tag(sync=True)
    bias = traitlets.List(traitlets.Float(), [-1.0, 0.0, 0.0, 0.0], minlen=4, maxlen=4).tag(sync=True)
    steps = traitlets.Int(30).tag(sync=True)
