"""Objectives of two random views of each picture, without labels."""
