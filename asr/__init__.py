"""Speech to text with multi-head and multi-head latent attention, exactly the same wherever it runs."""

from asr.config import ModelConfig
from asr.ctc import Word
from asr.transcriber import Transcriber, Transcript, load

__all__ = ["ModelConfig", "Transcriber", "Transcript", "Word", "load"]
