"""Sections, plug-ins and their options: how a configuration is declared, read and explained."""
