"""``probediff prepare``: image sets decoded once, into files that training maps into memory or streams.

Nothing here imports torch or Lightning, so that each of many processes stays small.
"""
