"""How good models are: a dataset put to each candidate, a metric with its interval, a signed record.

dataset -> asked item by item -> tallies -> value and interval -> EvaluationRecord
"""
