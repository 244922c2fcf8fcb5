"""One end of a column that runs on trio, in a process of its own.

python -m scripts.bench.data_path.child COLUMN                        serves, says its address
python -m scripts.bench.data_path.child COLUMN ADDRESS PID AMOUNTS    says what it found
"""

import json
import os
import sys

import trio
from scripts.bench.data_path.columns import COLUMNS, Column
from scripts.bench.data_path.figures import Amounts
from scripts.bench.data_path.loads import all_loads


async def measure(column: Column, address: str, server_pid: int, amounts: Amounts) -> None:
    async with column.peer(address) as peer:
        found = await all_loads(peer, server_pid, amounts)
        print(json.dumps(found), flush=True)
        os._exit(0)  # how long a host takes to close is not asked


def main(name: str, *rest: str) -> None:
    column = COLUMNS[name]
    if not rest:
        trio.run(column.serve)
        return
    address, pid, amounts = rest
    trio.run(measure, column, address, int(pid), Amounts(**json.loads(amounts)))


if __name__ == "__main__":
    main(*sys.argv[1:])
