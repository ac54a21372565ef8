"""The result of a fit: how it is built, what it holds, and the files that it writes.

`park.fit.bodies` builds it; clients read, plot and save it. It loads neither scipy nor matplotlib before they are needed.
"""
