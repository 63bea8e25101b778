"""The local cluster for development and tests: kind, with images from a container registry or built from
packages.
"""
