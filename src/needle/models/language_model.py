"""Which word comes next: recurrent networks and a Transformer over sequences of words."""

from __future__ import annotations

from typing import Any

from needle import nn
from needle.autograd import Tensor
from needle.errors import OptionError, ShapeError, describe
from needle.models.foreign_names import ForeignNames
from needle.nn.checks import require_tensors

__all__ = ["LanguageModel"]


class LanguageModel(nn.Module):
    """logits = W · sequence_model(embedding(words)) + b, for the next word at each place.

    embedding_size  numbers per word
    output_size     words in the vocabulary
    hidden_size     of the sequence model (in a Transformer: of its feed-forward layers)
    num_layers      of the sequence model
    seq_model       'rnn', 'lstm', 'gru' or 'transformer'
    seq_len         the most words that a Transformer sees at once
    dropout         share of the numbers zeroed in training: after the embedding, between the layers
                    and before W. Zaremba et al., "RNN Regularization", 2014

    Draws: the embedding, the sequence model, the linear layer.
    """

    foreign_names = ForeignNames(
        parts={
            "embedding": ("encoder", "embedding"),
            "seq_model": ("rnn", "lstm", "gru", "seq_model"),
            "linear": ("decoder", "linear", "fc"),
        },
        tied=(("decoder.weight", "encoder.weight"),),
    )

    def __init__(
        self,
        embedding_size: int,
        output_size: int,
        hidden_size: int,
        num_layers: int = 1,
        seq_model: str = "rnn",
        seq_len: int = 40,
        device: Any = None,
        dtype: Any = "float32",
        *,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        like = {"device": device, "dtype": dtype}
        sizes = (embedding_size, hidden_size, num_layers)
        recurrent = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
        self.vocab_size, self.seq_len = output_size, seq_len
        self.embedding = nn.Embedding(output_size, embedding_size, **like)
        width = hidden_size
        if seq_model == "transformer":
            self.seq_model: nn.Module = nn.Transformer(
                *sizes, sequence_len=seq_len, dropout=dropout, **like
            )
            width = embedding_size
        elif isinstance(seq_model, str) and seq_model in recurrent:
            self.seq_model = recurrent[seq_model](*sizes, dropout=dropout, **like)
        else:
            raise OptionError(
                "LanguageModel: expected seq_model 'rnn', 'lstm', 'gru' or 'transformer', "
                f"got {seq_model!r}."
            )
        self.linear = nn.Linear(width, output_size, **like)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, h: Any = None) -> tuple[Tensor, Any]:
        """Logits for the words that follow, and the state to go on from.

        x: (T, B) word ids; h: the state, None for zeros; (num_layers, B, hidden_size), and a tuple
        (h, c) of two such for 'lstm' -> logits (T · B, output_size), and the new state, of h's form
        ('transformer' has none: what it gives in its place tells it nothing)

        Raises OutOfRangeError for ids outside the vocabulary.
        """
        require_tensors("LanguageModel", x)
        if x.ndim != 2 or x.shape[0] == 0:
            raise ShapeError(
                f"LanguageModel: expected word ids x [T, B], T of 1 or more, got {describe(x)}."
            )
        out, h = self.seq_model(self.dropout(self.embedding(x)), h)  # (T, B, width)
        out = self.dropout(out).reshape((x.shape[0] * x.shape[1], out.shape[2]))
        return self.linear(out), h  # (T · B, output_size)
