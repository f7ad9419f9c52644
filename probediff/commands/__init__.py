"""The commands of ``probediff``, one file a verb."""
