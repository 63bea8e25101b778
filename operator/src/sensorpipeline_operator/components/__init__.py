"""What the operator builds: one module per component, each a pure function from a `Context` to Kubernetes objects.

A component that is absent from the spec builds the empty list, and what is not built is pruned: enabling and disabling
share one path.
"""
