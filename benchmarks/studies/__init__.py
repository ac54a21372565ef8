"""Longer studies, each a module whose ``main`` takes options of its own: simulated days, chaos, and how well fits do."""
