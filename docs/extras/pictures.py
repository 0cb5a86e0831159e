"""The pictures of the pages about networks: `python docs/extras/pictures.py` draws them anew.

A test compares docs/pictures with what this file draws.
"""

from __future__ import annotations

import math
from pathlib import Path

from drawing import DATA, LINE, OPERATOR, PARAMETER, RESULT, VALUE, Sheet, Style

__all__ = ["PICTURES"]

ORANGE = PARAMETER.stroke


# -- convolutional networks ------------------------------------------------------------------------


def convolution() -> Sheet:
    """One window of a picture, where it lies in memory, and all windows as a matrix."""
    sheet = Sheet(720, 630, "A convolution: a window of the picture, its memory, the contraction")
    _window_over_picture(sheet)
    _window_in_memory(sheet)
    _windows_as_matrix(sheet)
    return sheet


def _window_over_picture(sheet: Sheet) -> None:
    left, top, side = 56, 40, 32
    first = {(row, column): DATA.fill for row in range(3) for column in range(3)}
    places = [[2 * (5 * row + column) for column in range(5)] for row in range(5)]
    sheet.words(left + 2.5 * side, 26, "x (5, 5, 2)")
    sheet.grid(left, top, 5, 5, side, fills=first, texts=places)
    sheet.frame(left, top, 3 * side, 3 * side, DATA.stroke)
    sheet.frame(left + side, top + 3, 3 * side, 3 * side - 6, ORANGE, dashed=True)
    sheet.words(left + 2.5 * side, top + 5 * side + 20, "5 by 5 places, 2 channels each;", size=12)
    sheet.words(left + 2.5 * side, top + 5 * side + 36, "numbers: where in memory", size=12)
    sheet.operator(272, 120, "·")
    sheet.words(385, 26, "w (3, 3, 2, 4)")
    every = {(row, column): PARAMETER.fill for row in range(3) for column in range(3)}
    for depth in range(3, -1, -1):  # one kernel per channel of the result, the first in front
        x, y = 325 + 9 * depth, 72 - 9 * depth + 14
        sheet.box(x, y, 3 * side, 3 * side, PARAMETER, round=0)
        sheet.grid(x, y, 3, 3, side, fills=every)
    sheet.words(385, top + 5 * side + 20, "a kernel of 3 by 3 by 2", size=12)
    sheet.words(385, top + 5 * side + 36, "for each channel of the result", size=12)
    sheet.operator(492, 120, "=")
    sheet.words(605, 26, "y (3, 3, 4)")
    sheet.grid(605 - 1.5 * side, 72, 3, 3, side, fills={(0, 0): RESULT.fill, (0, 1): "#ffffff"})
    sheet.frame(605 - 1.5 * side, 72, side, side, RESULT.stroke)
    sheet.frame(605 - 0.5 * side, 72, side, side, ORANGE, dashed=True)
    sheet.words(605, top + 5 * side + 20, "4 channels at each place;", size=12)
    sheet.words(605, top + 5 * side + 36, "dashed: the next window", size=12)


def _window_in_memory(sheet: Sheet) -> None:
    left, top, cell = 46, 292, 12.6
    inside = {(0, 10 * row + i): DATA.fill for row in range(3) for i in range(6)}
    sheet.words(left, top - 10, "memory, channels last: the window is three runs of 6 numbers",
                anchor="start")  # fmt: skip
    sheet.grid(left, top, 1, 50, cell, 22, fills=inside, stroke="#b4b4b0")
    for row in range(5):
        sheet.line(
            (left + 10 * row * cell, top - 3), (left + 10 * row * cell, top + 25), arrow=False
        )
        sheet.words(left + (10 * row + 5) * cell, top + 40, f"row {row}", size=12)
    sheet.line((left + 50 * cell, top - 3), (left + 50 * cell, top + 25), arrow=False)
    for row in range(3):
        sheet.frame(left + 10 * row * cell, top, 6 * cell, 22, DATA.stroke)
        start = left + (10 * row + 2) * cell
        sheet.frame(start, top + 3, 6 * cell, 16, ORANGE, dashed=True)


def _windows_as_matrix(sheet: Sheet) -> None:
    left, top, width, height = 46, 396, 22, 16
    offsets = [
        [10 * o + 2 * p + 10 * h + 2 * i + c for h in range(3) for i in range(3) for c in range(2)]
        for o in range(3)
        for p in range(3)
    ]
    sheet.words(left, top - 12, "the contraction: 9 windows of 18 numbers, seen through strides, "
                "never copied", anchor="start")  # fmt: skip
    first = {(0, k): DATA.fill for k in range(18)}
    sheet.grid(left, top, 9, 18, width, height, fills=first, texts=offsets, size=10)
    sheet.frame(left, top, 18 * width, height, DATA.stroke)
    sheet.frame(left, top + height, 18 * width, height, ORANGE, dashed=True)
    sheet.words(left, top + 9 * height + 20, "row (o, p), column (h, i, c):\n"
                "number 10 o + 2 p + 10 h + 2 i + c", anchor="start", size=12)  # fmt: skip
    sheet.operator(466, top + 72, "·")
    every = {(k, f): PARAMETER.fill for k in range(18) for f in range(4)}
    sheet.grid(492, top, 18, 4, 16, 11.5, fills=every)
    sheet.words(524, top + 18 * 11.5 + 18, "w (18, 4)", size=12)
    sheet.operator(582, top + 72, "=")
    result = {(0, f): RESULT.fill for f in range(4)}
    sheet.grid(608, top, 9, 4, 16, height, fills=result)
    sheet.frame(608, top, 64, height, RESULT.stroke)
    sheet.frame(608, top + height, 64, height, ORANGE, dashed=True)
    sheet.words(640, top + 9 * height + 20, "y (9, 4)", size=12)


def resnet9() -> Sheet:
    """ResNet-9: what flows from layer to layer."""
    sheet = Sheet(720, 250, "ResNet-9: pictures become smaller, channels more")
    middle, gap, x = 112, 60, 32
    arrows = ["conv 7\nstride 4", "conv 3\nstride 2", "conv 3\ntwice", "conv 3\nstride 2",
              "conv 3\nstride 2", "conv 3\ntwice", "linear\ntwice"]  # fmt: skip
    boxes = [  # shape, height and width of the box
        ("3·32·32", 128, 14), ("16·8·8", 72, 20), ("32·4·4", 48, 26), ("32·4·4", 48, 26),
        ("64·2·2", 32, 34), ("128", 20, 44), ("128", 20, 44), ("10", 20, 18),
    ]  # fmt: skip
    styles = [DATA, *[VALUE] * 6, RESULT]
    for number, ((shape, height, width), style) in enumerate(zip(boxes, styles, strict=True)):
        sheet.box(x, middle - height / 2, width, height, style)
        sheet.words(x + width / 2, 206, shape, size=12)
        if number < len(arrows):
            end, start = x + width, x + width + gap
            sheet.words((end + start) / 2, middle + 18, arrows[number], size=10, colour=ORANGE)
            if arrows[number] == "conv 3\ntwice":
                level = middle - height / 2 - 26
                sheet.line((end + 3, middle), (start - 24, middle))
                sheet.operator(start - 14, middle, "+", radius=9)
                sheet.line((start - 5, middle), (start, middle), arrow=False)
                sheet.line((x + width / 2, middle - height / 2), (x + width / 2, level),
                           (start - 14, level), (start - 14, middle - 10))  # fmt: skip
            else:
                sheet.line((end + 3, middle), (start - 3, middle))
        x += width + gap
    sheet.words(360, 236, "channels · height · width. After every conv: batch norm and ReLU",
                size=12, colour=LINE)  # fmt: skip
    return sheet


# -- recurrent networks ----------------------------------------------------------------------------


def unrolled() -> Sheet:
    """Two layers of LSTM over four steps."""
    sheet = Sheet(720, 400, "A language model of two LSTM layers, unrolled over four words")
    words, following = ["to", "be", "or", "not"], ["be", "or", "not", "to"]
    columns = [112 + 134 * t for t in range(4)]
    for t, x in enumerate(columns):
        sheet.words(x + 45, 388, words[t], bold=True)
        sheet.line((x + 45, 372), (x + 45, 350))
        sheet.box(x, 320, 90, 28, PARAMETER, "embedding", size=12)
        sheet.line((x + 45, 320), (x + 45, 282))
        sheet.line((x + 45, 230), (x + 45, 182))
        sheet.box(x, 232, 90, 48, PARAMETER, "LSTM cell\nlayer 0", size=12)
        sheet.box(x, 132, 90, 48, PARAMETER, "LSTM cell\nlayer 1", size=12)
        sheet.line((x + 45, 130), (x + 45, 92))
        sheet.box(x, 62, 90, 28, PARAMETER, "linear", size=12)
        sheet.line((x + 45, 60), (x + 45, 38))
        sheet.words(x + 45, 26, following[t], bold=True)
        sheet.words(x + 51, 303, f"x{_low(t)}", anchor="start", size=12)
    for layer, y in enumerate((256, 156)):
        sheet.words(22, y - 8, f"h, c of\nlayer {layer}", anchor="start", size=12)
        for t, x in enumerate(columns):
            start = 78 if t == 0 else columns[t - 1] + 90
            for shift in (-8, 8):
                sheet.line((start, y + shift), (x - 1, y + shift))
        for shift in (-8, 8):
            sheet.line((columns[-1] + 90, y + shift), (columns[-1] + 144, y + shift), dashed=True)
    sheet.words(
        columns[-1] + 98,
        194,
        "where the\nnext batch\nbegins",
        anchor="start",
        size=12,
    )
    sheet.words(22, 80, "logits", anchor="start", size=12)
    sheet.words(22, 30, "target", anchor="start", size=12)
    sheet.words(22, 388, "input", anchor="start", size=12)
    return sheet


def lstm_cell() -> Sheet:
    """What one LSTM cell computes in one step."""
    sheet = Sheet(720, 404, "One step of an LSTM cell")
    i, f, g, o = 190, 300, 410, 520
    sheet.box(70, 20, 580, 350, Style("#fcfcfb", "#b4b4b0"), round=10)
    sheet.line((20, 70), (f - 13, 70))
    sheet.words(24, 60, "c", anchor="start", bold=True)
    sheet.line((f + 13, 70), (g - 13, 70))
    sheet.line((g + 13, 70), (700, 70))
    sheet.words(698, 60, "c′", anchor="end", bold=True)
    sheet.operator(f, 70, "×")
    sheet.operator(g, 70, "+")
    sheet.line((g, 147), (g, 84))
    sheet.line((i, 198), (i, 160), (g - 14, 160))
    sheet.line((f, 198), (f, 84), over=True)
    sheet.operator(g, 160, "×")
    sheet.line((g, 198), (g, 174))
    sheet.line((600, 70), (600, 98))
    sheet.box(570, 100, 60, 26, OPERATOR, "tanh", round=13, size=12)
    sheet.line((600, 126), (600, 146))
    sheet.operator(600, 160, "×")
    sheet.line((o, 198), (o, 160), (586, 160))
    sheet.line((614, 160), (700, 160))
    sheet.words(698, 150, "h′", anchor="end", bold=True)
    for x, name, gate in [(i, "i", "σ"), (f, "f", "σ"), (g, "g", "tanh"), (o, "o", "σ")]:
        sheet.line((x, 246), (x, 226))
        sheet.box(x - 26, 200, 52, 26, OPERATOR, gate, round=13, size=12)
        sheet.box(x - 55, 248, 110, 30, VALUE, name, round=0)
    sheet.words(140, 219, "write", size=12, colour=LINE)
    sheet.words(250, 219, "keep", size=12, colour=LINE)
    sheet.words(358, 219, "what", size=12, colour=LINE)
    sheet.words(468, 219, "show", size=12, colour=LINE)
    sheet.words(584, 268, "(B, 4H)", anchor="start", size=12)
    sheet.operator(355, 312, "+")
    sheet.line((355, 299), (355, 280))
    sheet.line((20, 312), (150, 312))
    sheet.words(24, 302, "h", anchor="start", bold=True)
    sheet.box(152, 298, 120, 28, PARAMETER, "W_hh (H, 4H)", size=12)
    sheet.line((272, 312), (341, 312))
    sheet.box(438, 298, 120, 28, PARAMETER, "W_ih (I, 4H)", size=12)
    sheet.line((438, 312), (369, 312))
    sheet.line((498, 400), (498, 328))
    sheet.words(510, 394, "x", anchor="start", bold=True)
    sheet.words(355, 350, "bias_ih, bias_hh", size=12)
    sheet.line((355, 337), (355, 326), arrow=False)
    return sheet


def _low(t: int) -> str:
    return "₀₁₂₃₄₅₆₇₈₉"[t]


# -- Transformers ----------------------------------------------------------------------------------


def attention() -> Sheet:
    """Causal attention of six characters: scores, weights, values."""
    sheet = Sheet(720, 320, "Causal attention: scores, mask, weights, and the mean of the values")
    tokens, side, top = "needle", 34, 60
    scores = [
        [1.6 * math.cos(1.3 * t - 2.1 * s) + 0.4 * (s == t) for s in range(6)] for t in range(6)
    ]
    dark = {(t, s): "#e4e4e1" for t in range(6) for s in range(t + 1, 6)}
    sheet.words(142, 26, "q kᵀ / √d")
    shown = [
        [f"{x:.1f}" if s <= t else "" for s, x in enumerate(row)] for t, row in enumerate(scores)
    ]
    sheet.grid(40, top, 6, 6, side, fills=dark, texts=shown, size=10)
    _letters(sheet, tokens, 40, top, side)
    sheet.words(142, top + 6 * side + 22, "grey: what is still to come", size=12)
    sheet.words(142, top + 6 * side + 38, "may not be looked at", size=12)
    sheet.line((256, 162), (306, 162))
    sheet.words(281, 150, "softmax", size=11)
    weights = [_softmax(row[: t + 1]) for t, row in enumerate(scores)]
    green = {(t, s): _shade(w) for t, row in enumerate(weights) for s, w in enumerate(row)}
    texts = [[f"{w:.2f}"[1:] if w < 0.995 else "1" for w in row] for row in weights]
    sheet.words(440, 26, "weights: each row sums to 1")
    sheet.grid(338, top, 6, 6, side, fills=green, texts=texts, size=10)
    _letters(sheet, tokens, 338, top, side)
    sheet.frame(338, top + 3 * side, 6 * side, side, RESULT.stroke)
    sheet.operator(566, 162, "·")
    sheet.words(616, 26, "v")
    values = {(t, d): DATA.fill for t in range(6) for d in range(2)}
    sheet.grid(594, top, 6, 2, 22, side, fills=values)
    sheet.words(616, top + 6 * side + 22, "(T, d)", size=12)
    sheet.operator(656, 162, "=", radius=10)
    sheet.words(692, 26, "y")
    sheet.grid(672, top, 6, 2, 20, side, fills={(3, d): RESULT.fill for d in range(2)})
    sheet.frame(672, top + 3 * side, 40, side, RESULT.stroke)
    sheet.words(692, top + 6 * side + 22, "(T, d)", size=12)
    sheet.words(440, top + 6 * side + 22, "row: who looks; column: at what.", size=12)
    sheet.words(440, top + 6 * side + 38, "framed: “d” looks back at “need”", size=12)
    return sheet


def _softmax(row: list[float]) -> list[float]:
    powers = [math.exp(x) for x in row]
    return [p / sum(powers) for p in powers]


def _shade(weight: float) -> str:
    """White for 0, green for 1."""
    return "#" + "".join(f"{round(255 - weight * (255 - c)):02x}" for c in (0x7F, 0xC9, 0x87))


def _letters(sheet: Sheet, tokens: str, x: float, y: float, side: float) -> None:
    for t, token in enumerate(tokens):
        sheet.words(x - 12, y + (t + 0.5) * side + 5, token, bold=True)
        sheet.words(x + (t + 0.5) * side, y - 8, token, bold=True)


def gpt() -> Sheet:
    """The GPT: embeddings, blocks that add to what flows, the table again."""
    sheet = Sheet(720, 560, "GPT: a stream of vectors that every block adds to")
    stream = 180
    sheet.words(stream, 24, "ids (B, T)", bold=True)
    sheet.line((stream, 32), (stream, 52))
    sheet.box(stream - 95, 54, 190, 30, PARAMETER, "token_embedding[ids]", size=12)
    sheet.line((stream, 84), (stream, 100))
    sheet.operator(stream, 114, "+")
    sheet.box(380, 99, 200, 30, PARAMETER, "position_embedding[:T]", size=12)
    sheet.line((380, 114), (stream + 15, 114))
    sheet.box(60, 150, 600, 250, Style("#fcfcfb", "#b4b4b0"), round=10)
    sheet.words(646, 388, "a block: there are `layers` of them", anchor="end", size=12, colour=LINE)
    sheet.line((stream, 128), (stream, 234))
    sheet.words(stream + 12, 143, "x (B, T, width)", anchor="start", size=12)
    for y, norm, part, what in [
        (190, "norm1", "attention", "looks at other places"),
        (300, "norm2", "feed_forward", "at each place: Linear, GELU, Linear"),
    ]:
        sheet.line((stream, y), (345, y))
        sheet.box(347, y - 15, 80, 30, PARAMETER, norm, size=12)
        sheet.line((427, y), (465, y))
        sheet.box(467, y - 15, 150, 30, PARAMETER, part, size=12)
        sheet.line((542, y + 15), (542, y + 58), (stream + 15, y + 58))
        sheet.words(534, y + 50, what, anchor="end", size=11, colour=LINE)
        sheet.operator(stream, y + 58, "+")
    sheet.line((stream, 262), (stream, 344))
    sheet.line((stream, 372), (stream, 420))
    sheet.box(stream - 40, 422, 80, 30, PARAMETER, "norm", size=12)
    sheet.line((stream, 452), (stream, 470))
    sheet.box(stream - 120, 472, 240, 30, PARAMETER, "· token_embeddingᵀ  (the head)", size=12)
    sheet.line((stream, 502), (stream, 526))
    sheet.words(stream, 544, "logits (B, T, vocab_size)", bold=True)
    return sheet


# -- foreign weights -------------------------------------------------------------------------------


def foreign_layouts() -> Sheet:
    """The same weights as PyTorch and as Needle have them."""
    sheet = Sheet(720, 380, "The same weights in PyTorch's layout and in Needle's")
    sheet.words(171, 26, "PyTorch: outputs first", bold=True)
    sheet.words(530, 26, "Needle: outputs last", bold=True)
    for y, name, words in [
        (82, "Linear", ("(out, in)", "transposed", "(in, out)")),
        (190, "LSTM", ("weight_ih_l0 (4H, I)", "transposed", "W_ih (I, 4H)")),
        (310, "Conv2d", ("(out, in, 3, 3)", "permuted", "(3, 3, in, out)")),
    ]:
        sheet.words(20, y + 5, name, anchor="start", bold=True)
        sheet.words(205 if name != "Conv2d" else 265, y + 5, words[0], anchor="start", size=12)
        sheet.line((378, y), (452, y))
        sheet.words(415, y - 8, words[1], size=11)
        sheet.words(600, y + 5, words[2], anchor="start", size=12)
    sheet.box(150, 50, 42, 64, PARAMETER, round=0)
    sheet.box(480, 61, 64, 42, PARAMETER, round=0)
    for number, gate in enumerate("ifgo"):
        sheet.box(150, 138 + 26 * number, 42, 26, PARAMETER, gate, round=0)
        sheet.box(480 + 26 * number, 169, 26, 42, PARAMETER, gate, round=0)
    _kernels(sheet, 118, 276)
    _matrices(sheet, 480, 270)
    return sheet


def _kernels(sheet: Sheet, x: float, y: float) -> None:
    """Kernels of 3 by 3 for 3 outputs and 2 inputs; of each, one place is dark."""
    fills = {(row, column): PARAMETER.fill for row in range(3) for column in range(3)}
    for out in range(3):
        for channel in range(2):
            sheet.grid(x + 44 * out, y + 40 * channel, 3, 3, 11, fills=fills | {(0, 1): ORANGE})


def _matrices(sheet: Sheet, x: float, y: float) -> None:
    """The same: for each of 3 by 3 places a matrix of 2 inputs by 3 outputs."""
    for row in range(3):
        for column in range(3):
            colour = ORANGE if (row, column) == (0, 1) else PARAMETER.fill
            fills = {(i, o): colour for i in range(2) for o in range(3)}
            sheet.grid(x + 38 * column, y + 28 * row, 2, 3, 11, fills=fills)


PICTURES = {
    "convolution": convolution,
    "resnet9": resnet9,
    "unrolled": unrolled,
    "lstm-cell": lstm_cell,
    "attention": attention,
    "gpt": gpt,
    "foreign-layouts": foreign_layouts,
}

if __name__ == "__main__":
    folder = Path(__file__).resolve().parents[1] / "pictures"
    for name, draw in PICTURES.items():
        (folder / f"{name}.svg").write_text(draw().svg(), encoding="utf-8")
