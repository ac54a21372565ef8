"""The methods of a fit: their options, the optimisers, the DREAM sampler, and what monitors and restarts them.

The bodies of jobs (`park.fit.bodies`) call `park.fit.methods.optimise`. bumps is loaded where one of its optimisers runs.
"""
