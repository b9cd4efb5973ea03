"""Measuring: how well pairs are found (`retrieval`) and where the time goes (`timing`)."""
