"""Real node processes under load and faults: what `scripts/testnet.py` runs.

`options` is what a run depends on; `schedule` turns it into what is asked and broken when; `grid`
has the processes, `chaos` breaks them, `workload` asks; `sampling` reads how they are, `table` and
`screen` show it; `figures` and `report` say what it came to; `namespaces` and `relay` put a slow
network between them; `run` puts it together.
"""
