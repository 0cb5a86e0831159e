"""What random programs consist of: templates of expressions that keep values within a few units."""

from __future__ import annotations

# {a}, {b}: values of one kind, {f}: a float; exact if what they read is
ELEMENTWISE = {
    "f": [
        "ndl.sin({a})", "ndl.cos({a} * 1.5)", "ndl.tanh({a})", "ndl.sigmoid({a} * 2)",
        "ndl.gelu({a})", "ndl.gelu({a}, 'tanh')", "ndl.silu({a})", "ndl.erf({a})",
        "ndl.softplus({a} - 1)", "ndl.elu({a})", "ndl.elu({a}, 0.5)",
        "ndl.exp(-{a} * {a})", "ndl.sqrt({a} * {a} + 0.5)", "ndl.log({a} ** 2 + 1.5)",
        "1 / ({a} * {a} + 1)", "(1 - {a}) * 0.5", "({a} / 3) ** 3", "2 ** ({a} * 0.5)",
        "({a} + {b}) * 0.7", "({a} - {b}) * 0.7", "ndl.tanh({a} * {b})", "{a} / ({b} * {b} + 1)",
        "ndl.power({a} * {a} + 0.5, {b} * 0.3)", "-{a}", "{a} + 0", "{a} * 1", "{a} * 0.0",
        "{a} * -0.0", "{a} - {a}", "{a} / 1", "ndl.fused_add_scalars({a}, 0.5, -0.25)[0]",
        "ndl.fused_add_scalars({a}, 1, -0.5)[1] * 0.5", "ndl.make_tuple({a}, -{a})[1]",
    ],
    "i": [
        "{a} + {b}", "{a} - {b}", "{a} * 3 - 1", "-{a}", "{a} * {b}", "ndl.abs({a})",
        "ndl.maximum({a}, {b})", "ndl.minimum({a}, 2)", "ndl.clip({a}, -2, 3)", "{a} > {b}",
        "ndl.equal({a}, 0)", "ndl.not_equal({a}, {b})", "{a}.astype('{dtype}') * 0.2",
        "ndl.where({a} > 0, {a}, {b})", "{a} < {b}", "{a} <= 1",
        "{a} ** 2", "ndl.sign({a})", "{a} + 100", "{a}.astype('int16')", "{a}.astype('int64')",
        "{a}.astype('uint8')", "{a}.astype('bool')",
    ],
    "b": [
        "ndl.logical_and({a}, {b})", "ndl.logical_or({a}, {b})", "ndl.logical_not({a})",
        "ndl.equal({a}, {b})", "{a}.astype('{dtype}')", "{a}.astype('int32')",
        "ndl.where({a}, 1.5, -0.5)",
    ],
}  # fmt: skip
# with a kink or a jump: of exact values only, where gradients are taken
KINKED = [
    "ndl.relu({a})", "ndl.abs({a})", "ndl.clip({a}, -0.7, 0.9)", "ndl.maximum({a}, {b})",
    "ndl.minimum({a}, {b})", "ndl.maximum({a}, 0.25)", "ndl.leaky_relu({a})", "ndl.relu6({a} * 2)",
    "ndl.hardtanh({a})", "ndl.hardswish({a} * 3) * 0.3", "ndl.hardsigmoid({a} * 3)",
]  # fmt: skip
# of exact values only
COMPARISONS = [
    "{a} > {b}", "{a} <= 0.25", "{a} < {b}", "ndl.not_equal({a}, {b})", "ndl.sign({a})",
    "({a} * 2).astype('int32')", "ndl.indicator({a} > 0, {a})",
    "ndl.where({a} > 0.1, {a} * 0.5, -{a})", "ndl.where({a} > {b}, {b}, {a} * 0.5)",
    "ndl.where({a} >= {b}, {a}, 0.5)",
]  # fmt: skip

# along an axis {k} that is not empty: kind -> templates; exact those that add nothing up
ONE_AXIS = {
    "f": [
        "{a}.sum({k}) * {scale}", "{a}.mean({k}, keepdims=True)", "{a}.var({k})",
        "{a}.logsumexp({k}) * 0.5", "ndl.softmax({a}, {k})", "ndl.logsoftmax({a}, {k}) * 0.3",
        "{a} - {a}.mean({k}, keepdims=True)", "ndl.std({a} + 0 * {a}.sum(), {k}) * 0.5",
        "ndl.normalize({a}, {k}, eps=0.1)", "ndl.moments({a}, {k})[1]",
        "ndl.masked_softmax({a})", "ndl.einsum('...i->...', {a}) * {scale}",
    ],
    "i": ["{a}.sum({k})", "{a}.max({k})", "ndl.argmax({a}, {k})", "ndl.cumsum({a}, {k})"],
    "b": ["ndl.all({a}, {k})", "ndl.any({a}, {k})", "{a}.sum({k})"],
}  # fmt: skip
MOVES = [
    "{a}.flip({k})", "{a}.expand_dims({k})", "ndl.split({a}, {k})[0]", "ndl.split({a}, {k})[-1]",
    "ndl.take({a}, {ids}, {k})", "ndl.concatenate([{a}, {a}], {k})",
    "ndl.stack([{a}, {a}], {k})", "ndl.squeeze({a})", "{a}.T", "{a}.flatten()",
    "{a}.broadcast_to((2, *{a}.shape))", "{a}.reshape((-1, {last}))",
    "ndl.tril({a}, 1)", "ndl.triu({a}, -1)", "ndl.dilate({a}, ({p},), 1)",
    "ndl.undilate({a}, ({p},), 1)",
]  # fmt: skip
EXTREMES = [
    "{a}.max({k})", "{a}.min({k}, keepdims=True)", "{a} - {a}.max({k}, keepdims=True)",
    "{a}.max()", "ndl.take_along({a}, ndl.argmax({a}, {k}).expand_dims({k}), {k})",
]  # fmt: skip
PLACES = ["ndl.argmax({a}, {k})", "ndl.argmin({a}, {k})"]

ENDINGS = ["nothing"] * 3 + ["gradients"] * 4 + ["optimizer"] * 4
OPTIMIZERS = [
    "optim.SGD({p}, lr=0.1)",
    "optim.SGD({p}, lr=0.1, momentum=0.9, weight_decay=0.01)",
    "optim.Adam({p}, lr=0.01, eps=0.01)",
    "optim.AdamW({p}, lr=0.01, eps=0.01)",
    "optim.RMSprop({p}, lr=0.01, eps=0.01, momentum=0.5)",
    "optim.Adagrad({p}, lr=0.01, eps=0.01)",
]
