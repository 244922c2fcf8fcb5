"""How good models are: a dataset put to each candidate, and what came of it signed.

dataset -> asked item by item -> tallies -> value and interval -> EvaluationRecord
"""
