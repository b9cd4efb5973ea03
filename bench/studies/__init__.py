"""Experiments behind pages of docs/: what is true of the methods, and what a whole run costs."""
