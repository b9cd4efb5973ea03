"""Objectives of labelled rows: of logits, and of pairs whose halves may be missing."""
