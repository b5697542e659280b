"""The commands of the command line, one group per file: parse, call, print."""

__all__ = ()
