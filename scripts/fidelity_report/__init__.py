"""How far depthflux is from FluxControlPipeline: measured, and written to docs/fidelity.md.

`models` are what is measured, `systems` run them, `stages`, `law` and `changes` measure, `page`
renders. Nothing here is imported by the package.
"""
