"""How long a test waits, in real time, for what is bound to come.

What comes ends the wait, so this is only what a test that hangs costs. It is many times what
anything takes on a busy machine: a bound that is near to that fails where others work.
"""

PATIENCE_SECONDS = 60.0
