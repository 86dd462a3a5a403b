"""CacheCard: a file that carries an LLM's KV cache between runtimes.

    with cachecard.open("context.card") as card:
        keys = card.read(0, "key", tokens=slice(0, 100))     # array[token, head, channel]

    cachecard.verify("context.card")

Caches of Hugging Face transformers are saved and loaded by cachecard.hf, which alone needs torch.
"""

from . import errors
from ._coding import Coding
from .card import Card, verify
from .card import open_card as open  # noqa: A004  (the module's own name for it)
from .card_writer import RowSource, Writer, WriteReport, write
from .errors import CardError
from .facts import Facts, FieldVerdict, ProvenanceStep, RopeTable, Stream, VerifyReport
from .identity import Identity, digest128

__version__ = "0.1.0"

__all__ = ["Card", "CardError", "Coding", "Facts", "FieldVerdict", "Identity", "ProvenanceStep", "RopeTable",
           "RowSource", "Stream", "VerifyReport", "WriteReport", "Writer", "digest128", "errors", "open", "verify", "write"]
