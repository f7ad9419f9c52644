"""Local runs at a glance: which of them train, ended or failed, how far they are and what they found."""
