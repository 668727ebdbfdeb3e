"""Depthflux as nodes of ComfyUI.

    declaration.py   the request's declaration → the widgets' own file, declaration.json
    install.py       the nodes' folder → a ComfyUI's custom_nodes
    node/            what is installed: runs in ComfyUI's Python, by itself

The nodes ask an engine in their own process or a server over HTTP; they compute nothing. What is
in node/ imports depthflux only where an engine in this process is asked for.
"""
