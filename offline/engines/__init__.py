"""The speech engines, one after another; `offline.voices` has them all."""
