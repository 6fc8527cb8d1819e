"""Reasons why entropies need noise."""
