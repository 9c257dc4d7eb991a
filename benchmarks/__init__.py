"""What igtl costs beside other implementations and the machine's limits: `python -m benchmarks`.

Every figure is a ratio inside one run, the contenders taking turns: machines are noisy, and two
runs say nothing about each other. Nothing here is a test; what can be counted is guarded in
`tests/test_budget.py` and `ci/instructions`.
"""
