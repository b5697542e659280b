"""The trilemma report: quality, coverage and speed of several models, measured side by side."""

__all__: list[str] = []
