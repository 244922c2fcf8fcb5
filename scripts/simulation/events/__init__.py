"""Discrete events over arrays: very many nodes, of which a few are real."""
