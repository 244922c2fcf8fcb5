"""Whole nodes in virtual time, under faults and attacks: what `scripts/simulate.py` runs.

`world` starts real nodes over the in-memory transport; `conditions` is the network between them;
`faults`, `attacks` and `workload` act on them; `properties` says what must hold meanwhile and
afterwards; `run` puts a run together from its `options`; `report` and `page` tell of it.
"""
