"""Speech to text with multi-head and multi-head latent attention: offline, online and in tests the same forward."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from asr.config import ModelConfig
from asr.ctc import Word

if TYPE_CHECKING:
    from asr.transcriber import Transcriber, Transcript, load

__all__ = ["ModelConfig", "Transcriber", "Transcript", "Word", "load"]


def __getattr__(name: str) -> Any:
    """Import torch when a model is first wanted: processes that only decode audio do without its seconds and memory."""
    if name in ("Transcriber", "Transcript", "load"):
        return getattr(import_module("asr.transcriber"), name)
    raise AttributeError(f"module 'asr' has no attribute {name!r}")
