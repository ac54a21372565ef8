"""A world without sockets, threads or clocks, in which the real machines of the fabric live: the simulator.

Real are `JobManager` with its dispatcher and store, `KernelMachine` and `Presence` of each kernel, and `Mirror`. Made up
are the network (`wire`), the slot processes (`process`) and what runs in them (`functions`), and the clients (`client`).
`world` joins them: whatever will happen stands in a heap by its time, and time moves from one to the next. Every
message crosses every border as encoded frames. What happens follows from a seed: `life` makes up lives in which
accidents stop and everything must end then, `storm` lives in which they never stop and nothing need end, `paying` lives in
which all pay. `shares`, `waits` and `audit` judge the outcome; no module here imports them.

Nothing here decides who is served: tests/sim/test_simulator.py sees to that.
"""
