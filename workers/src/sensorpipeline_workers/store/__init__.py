"""The agent beside each mongod: replica set, users, collections and indexes as described, kept so.

collections.py  what the database should hold (pure)
agent.py        brings it about
"""
