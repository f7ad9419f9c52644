"""Each statement of the two papers beside what runs say: agrees, disagrees or undecided, by one rule.

P1 is *There and Back Again: On the relation between noises, images, and their inversions in diffusion models*, P2 is
*First-step inference in diffusion models learns image de-whitening*. ``rule`` is the rule, ``evidence`` and ``results``
read what runs recorded, ``p1_*`` and ``p2_*`` hold the statements, and the others show them.
"""
