"""Recurring tasks: when they fire, what becomes of them, where their answers go, and how to look at them."""
