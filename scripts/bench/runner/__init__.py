"""All benchmarks, one after the other, and one report of them: `scripts/bench/all.py`.

`programs` is the table of them; `needs` says what one lacks here; `running` runs one; `figures`
reads what it told; `report`, `history` and `page` put it together, `machine` says what it ran on.
"""
