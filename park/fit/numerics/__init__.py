"""The numerical core: derivatives, least squares, constrained minimisation, covariance, convergence, intervals.

The methods and the results call these functions on an objective (`park.fit.problem.objective`). They import numpy and
scipy, never bumps.
"""
