"""Times FLUX.1-dev at its full size, with random weights, from files to pictures.

Weights decide no time: random ones of the real shapes, in the real files' layout, cost what the
real ones cost. What the pictures show means nothing, and nothing is said about them.
"""
