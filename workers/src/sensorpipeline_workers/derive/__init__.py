"""Derived metrics: windows of equal start joined across fleets.

join.py   the join (pure)
main.py   the loop around it
"""
