"""The statement of a fit: data, models with parameters, and the objective function that follows from them.

`park.fit.job` and the methods use these modules. They import numpy and `park.fit.curves`, and never a method; bumps is
loaded only for a bumps ``FitProblem``.
"""
