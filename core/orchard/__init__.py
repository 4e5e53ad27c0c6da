"""The Orchard: imaginary fruits on scenery, drawn exactly at any size, with a knowledge graph that knows their looks.

A made-up world makes the claim about knowledge falsifiable: some fruits are named only in the graph, never in a caption, so a model
that draws such a fruit with the right shape and colours can only have it from the graph.
"""
