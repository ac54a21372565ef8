"""The measures, each a module of five names.

``UNITS`` are its columns with their units, and ``SYSTEMS`` the things that it compares. ``measure`` takes the rows of one
system in a fresh process, ``derive`` adds ratios within one round, and ``marks`` lists the goals of PARK.
"""
