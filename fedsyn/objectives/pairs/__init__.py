"""Objectives of image–text pairs, without labels."""
