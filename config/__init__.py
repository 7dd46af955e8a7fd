"""DECLARES what exists: models, profiles and schedules in YAML, and the types that check them.

Nothing is imported here: `config.settings` must stay usable without pydantic.
"""
