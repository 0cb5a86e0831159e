"""NumPy references in float64 for the layers of the last exercises, and checks against them.

Written from the contract's formulas. Found by tests as `contract.course_references`.
"""

from __future__ import annotations

import numpy as np

from needle.autograd import Tensor

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}  # the contract's, section 6


# -- draws, section 12 -------------------------------------------------------------------------


def uniform(bound, *shape):
    """One call of `rand`, scaled to +-bound."""
    return np.random.rand(*shape) * 2 * bound - bound


def linear_draws(fan_in, fan_out, bias=True):
    weight = uniform(np.sqrt(6 / fan_in), fan_in, fan_out)
    if not bias:
        return [weight]
    return [weight, uniform(np.sqrt(6 / fan_out), fan_out, 1).reshape(1, fan_out)]


def conv_draws(channels, out, k, bias=True):
    weight = uniform(np.sqrt(6 / (channels * k * k)), k, k, channels, out)
    return [weight, uniform(1 / np.sqrt(channels * k * k), out)] if bias else [weight]


def recurrent_draws(inputs, hidden, gates=1, bias=True):
    bound = 1 / np.sqrt(hidden)
    shapes = [(inputs, gates * hidden), (hidden, gates * hidden)]
    shapes += [(gates * hidden,)] * 2 if bias else []
    return [uniform(bound, *shape) for shape in shapes]


def assert_values(tensors, expected):
    """The same shapes and, to float32, the same numbers, one after the other."""
    assert [tuple(t.shape) for t in tensors] == [e.shape for e in expected]
    for tensor, values in zip(tensors, expected, strict=True):
        np.testing.assert_allclose(tensor.numpy(), values, rtol=1e-6, atol=1e-7)


def projection_draws(q, inner, k=None, v=None, out=None):
    sizes = [(q, inner), (k or q, inner), (v or q, inner), (inner, out or q)]
    return [linear_draws(*size, bias=False)[0] for size in sizes]


def layer_draws(q, heads, dim, hidden):
    return [
        *projection_draws(q, heads * dim), *linear_draws(q, hidden), *linear_draws(hidden, q),
    ]  # fmt: skip


# -- functions ---------------------------------------------------------------------------------


def softmax(x, axis=-1):
    powers = np.exp(x - x.max(axis, keepdims=True))
    return powers / powers.sum(axis, keepdims=True)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def cross_entropy(logits, y):
    """One loss a row."""
    y = np.asarray(y).astype(int)
    return -np.log(softmax(logits, 1))[np.arange(len(y)), y]


def windows(x_shape, w_shape, stride, padding):
    """Places in the kernel, each with the part of the padded image (NHWC) that meets it."""
    for i in range(w_shape[0]):
        for j in range(w_shape[1]):
            ends = [n + 2 * padding - k for n, k in zip(x_shape[1:3], w_shape, strict=False)]
            rows, columns = (
                slice(start, start + end // stride * stride + 1, stride)
                for start, end in zip((i, j), ends, strict=True)
            )
            yield (i, j), (slice(None), rows, columns)


def pad_image(x, padding):
    return np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))


def conv(x, w, stride=1, padding=0):
    """Cross-correlation of x (N,H,W,Cin) with w (K,K,Cin,Cout)."""
    padded = pad_image(x, padding)
    return sum(padded[seen] @ w[tap] for tap, seen in windows(x.shape, w.shape, stride, padding))


def conv_slopes(x, w, g, stride=1, padding=0):
    """Gradients of sum(conv(x, w) * g) for x and w."""
    padded, dw = pad_image(x, padding), np.zeros(w.shape)
    dx = np.zeros(padded.shape)
    for tap, seen in windows(x.shape, w.shape, stride, padding):
        dx[seen] += g @ w[tap].T
        dw[tap] = np.einsum("nhwc,nhwf->cf", padded[seen], g)
    inner = slice(padding, -padding or None)
    return dx[:, inner, inner], dw


def conv_nchw(x, w, bias=0.0, stride=1):
    """The layer: NCHW in and out, padding (k - 1) // 2."""
    y = conv(x.transpose(0, 2, 3, 1), w, stride, (w.shape[0] - 1) // 2) + bias
    return y.transpose(0, 3, 1, 2)


def batch_norm_nchw(x, weight, bias, mean=None, var=None, eps=1e-5):
    def aside(v):
        return np.reshape(v, (1, -1, 1, 1))

    mean = x.mean((0, 2, 3)) if mean is None else mean
    var = x.var((0, 2, 3)) if var is None else var
    return (x - aside(mean)) / np.sqrt(aside(var) + eps) * aside(weight) + aside(bias)


def layer_norm(x, weight=1.0, bias=0.0, eps=1e-5):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps) * weight + bias


def rnn_step(x, h, w_ih, w_hh, b_ih=0.0, b_hh=0.0, act=np.tanh):
    return act(x @ w_ih + b_ih + h @ w_hh + b_hh)


def lstm_step(x, h, c, w_ih, w_hh, b_ih=0.0, b_hh=0.0):
    i, f, g, o = np.split(x @ w_ih + b_ih + h @ w_hh + b_hh, 4, axis=1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def dropped(x, p):
    """Dropout in training: one draw per element, kept where it is at most 1 - p."""
    return x * (np.random.rand(*x.shape) <= 1 - p) / (1 - p) if p else x


def attention(q, k, v, causal=False, dropout=0.0):
    scores = q @ np.swapaxes(k, -1, -2) / np.sqrt(q.shape[-1])
    if causal:
        later = np.arange(k.shape[2])[None, :] > np.arange(q.shape[2])[:, None]
        scores = np.where(later, -np.inf, scores)
    probs = dropped(softmax(scores), dropout)
    return probs @ v, probs


def attention_layer(q, k, v, heads, weights, causal=True, dropout=0.0, norms=None):
    """Norms: (weight, bias) of q, k and v; weights: of the four projections."""
    split = []
    for x, weight, norm in zip((q, k, v), weights, norms or [(1.0, 0.0)] * 3, strict=False):
        y = layer_norm(x, *norm) @ weight
        split.append(y.reshape(*y.shape[:2], heads, -1).transpose(0, 2, 1, 3))
    y, _ = attention(*split, causal, dropout)
    y = y.transpose(0, 2, 1, 3)
    return y.reshape(*y.shape[:2], -1) @ weights[3]


def transformer_layer(x, heads, weights, causal=True, dropout=0.0):
    """Weights: four projections, Linear1's weight and bias, Linear2's; norms as they begin."""
    w1, b1, w2, b2 = weights[4:]
    x = x + dropped(attention_layer(x, x, x, heads, weights[:4], causal, dropout), dropout)
    hidden = dropped(np.maximum(layer_norm(x) @ w1 + b1, 0), dropout)
    return x + dropped(hidden @ w2 + b2, dropout)


def transformer(x, heads, table, layers, causal=True, dropout=0.0):
    """x (B,T,D)."""
    x = x + table[: x.shape[1]]
    for weights in layers:
        x = transformer_layer(x, heads, weights, causal, dropout)
    return x


# -- checks ------------------------------------------------------------------------------------


def arrays(*shapes, seed=0):
    draw = np.random.RandomState(seed)
    return [draw.randn(*shape).astype("float32") for shape in shapes]


def slopes(function, inputs, out_grad, eps=1e-6):
    """Gradients of sum(function(*inputs) * out_grad), by central differences in float64."""
    inputs = [np.array(array, dtype="float64") for array in inputs]

    def value():
        return float(np.sum(function(*inputs) * out_grad))

    found = []
    for array in inputs:
        gradient = np.zeros(array.shape)
        for place in np.ndindex(array.shape):
            kept = array[place]
            array[place] = kept + eps
            above = value()
            array[place] = kept - eps
            gradient[place] = (above - value()) / (2 * eps)
            array[place] = kept
        found.append(gradient)
    return found


def assert_like(function, reference, *inputs, device=None, **tolerance):
    """`function` of float32 Tensors has the reference's shape, values and gradients."""
    tolerance = tolerance or TOLERANCE
    tensors = [Tensor(array, device=device, dtype="float32") for array in inputs]
    exact = [np.asarray(tensor.numpy(), dtype="float64") for tensor in tensors]
    out, expected = function(*tensors), reference(*exact)
    assert out.dtype == "float32"
    assert tuple(out.shape) == np.shape(expected)
    np.testing.assert_allclose(out.numpy(), expected, **tolerance)
    out_grad = np.random.RandomState(5).randn(*out.shape)
    out.backward(Tensor(out_grad, device=device, dtype="float32"))
    for tensor, slope in zip(tensors, slopes(reference, exact, out_grad), strict=True):
        assert tuple(tensor.grad.shape) == slope.shape
        np.testing.assert_allclose(tensor.grad.numpy(), slope, **tolerance)


def assert_module_like(module, parameters, reference, *inputs, device=None, **tolerance):
    """As `assert_like`, of a module and its parameters of these names, or (owner, name).

    The reference takes the inputs and then the parameters' values.
    """
    owners = [(module, name) if isinstance(name, str) else name for name in parameters]
    values = [getattr(owner, name).numpy() for owner, name in owners]

    def function(*tensors):
        for (owner, name), tensor in zip(owners, tensors[len(inputs) :], strict=True):
            setattr(owner, name, tensor)  # plain Tensors over the parameters, as the tests do
        return module(*tensors[: len(inputs)])

    assert_like(function, reference, *inputs, *values, device=device, **tolerance)


def weights_of(model):
    return [p.numpy().astype("float64") for p in model.parameters()]


def assert_pair(found, expected):
    assert len(found) == 2 and np.array(found).shape == (2,)
    np.testing.assert_allclose(np.array(found, dtype="float64"), expected, rtol=1e-5)
