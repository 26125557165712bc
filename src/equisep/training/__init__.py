"""How networks are trained: engines compute a step, a population goes through a schedule."""
