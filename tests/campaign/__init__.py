"""Campaigns against real processes: a broker, kernels and clients that are killed, stopped and cut off while they work.

`plan` makes up, from a seed, what clients ask for, and knows what must come of it; `work` is what runs, and notes each run
of a unit in the ledger; `client` is a process that submits, waits, and writes down what it was promised before it goes on;
`chaos` lets all of them run and does the harm; `audit` compares the promises, the ledger and the store with the plan.
"""
