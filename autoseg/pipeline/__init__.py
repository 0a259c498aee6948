"""The use cases: what a command does, as functions of a workspace.

Nothing is imported here: planning and preprocessing must not pay for torch, which training and prediction need.
"""
