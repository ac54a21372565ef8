"""Data and fit of one part of an assembly as arrays, for plots and files, with their error bands.

The objective functions make these curves when a fit is over. The modules import numpy alone.
"""
