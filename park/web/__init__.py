"""The web page: a table of jobs, a page for each job, and the buttons to steer them.

The page runs beside the broker as an ordinary client. All browsers share one mirror of the table
(`watch`). Nothing that comes from
a job is unpickled here: pages show records, lines of logs and files that the job's own process has written as numbers.
"""
