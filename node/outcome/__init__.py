"""Asking for an outcome: a capability's contract, who competes for it, and how they are asked.

`contract` says what goes in and comes out, `modes` how candidates compete or work together,
`agreement`, `confidence` and `steps` decide; they are pure. `asking` is the shell over the mesh.
"""
