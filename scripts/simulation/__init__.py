"""Whole nodes in virtual time, under faults and attacks: what `scripts/simulate.py` runs.

Where what is:

    options     what may be asked for: of a scenario, and on the command line
    run         a run, put together from these; what it needs to start with is in `ready`, `joining`
    world       real nodes over the in-memory transport; `doubles` are their engines
    workload    what they are asked; `faults` is what happens to them meanwhile
    plants      bugs that are put into the node on purpose
    network/    what is between them: latencies, losses, partitions; the model, or real libp2p
    attacks/    members that mean ill, and the defences that can be switched off
    checks/     what must hold meanwhile and afterwards, and the verdict
    events/     the mode of very many nodes: arrays, and a few real ones
    reporting/  what is told of a run, or of many
"""
