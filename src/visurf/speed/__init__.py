"""How fast a step is, and against what: `visurf bench`.

Models of known shapes with random weights, replayed workloads, the plain padded way and TRL's trainer as rivals, measured in turn
in one process.
"""
